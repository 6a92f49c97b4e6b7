"""The parameters of MAIL and RCPT: which there are, when, and what their values may be."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NamedTuple

from mailserver.values.reply import Reply, reply
from mailserver.wire.grammar import Malformed, from_xtext, is_xtext, mailbox
from mailserver.wire.smtp_table import FUTURE_RELEASE, PRIORITY, REQUIRE_TLS

_KEYWORD = re.compile(rb"[A-Za-z0-9][A-Za-z0-9-]*+")
_OCTETS = re.compile(rb"[0-9]{1,20}")
_BY = re.compile(rb"([+-]?[0-9]{1,9});([NR]T?)", re.IGNORECASE)
_SECONDS = re.compile(rb"[0-9]{1,9}")
_MOMENT = re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:Z|[+-][0-9]{2}:[0-9]{2})")
_PRIORITY = re.compile(rb"-?[0-9]")
_ENVID_OCTETS = 100
_ORCPT_OCTETS = 500
"""RFC 3461 §4.2, §4.4."""

Field = str | int | float | bool | frozenset[str] | tuple[int, str]


class Unacceptable(Exception):
    """A parameter is unknown, malformed or repeated; ``reply`` says so to the client."""

    def __init__(self, answer: Reply) -> None:
        super().__init__(answer.text)
        self.reply = answer


def _bad(text: str) -> Unacceptable:
    return Unacceptable(reply(501, "5.5.4", text))


def _size(value: bytes) -> int:
    """RFC 1870 §5: 1 to 20 digits, ASCII ones (``int`` takes many more things)."""
    if not _OCTETS.fullmatch(value):
        raise _bad("Syntax: SIZE=octets")
    return int(value)


def _body(value: bytes) -> str:
    """RFC 6152 §2, RFC 3030 §3."""
    body = value.upper()
    if body not in (b"7BIT", b"8BITMIME", b"BINARYMIME"):
        raise _bad("Syntax: BODY=7BIT, BODY=8BITMIME or BODY=BINARYMIME")
    return body.decode("ascii")


def _alone(value: bytes) -> bool:
    """RFC 6531 §3.4, RFC 8689 §4.2: the keyword says it all."""
    if value:
        raise _bad("SMTPUTF8 and REQUIRETLS take no value")
    return True


def _ret(value: bytes) -> str:
    ret = value.upper()
    if ret not in (b"FULL", b"HDRS"):
        raise _bad("Syntax: RET=FULL or RET=HDRS")
    return ret.decode("ascii")


def _envid(value: bytes) -> str:
    if len(value) > _ENVID_OCTETS or not is_xtext(value):
        raise _bad(f"Syntax: ENVID=xtext, at most {_ENVID_OCTETS} octets")
    return value.decode("ascii")


def _auth(value: bytes) -> str:
    """RFC 4954 §5: a mailbox or ``<>``, in xtext."""
    if not is_xtext(value):
        raise _bad("Syntax: AUTH=xtext")
    text = from_xtext(value)
    if text != "<>":
        try:
            mailbox(text.encode())
        except Malformed as why:
            raise _bad(f"Syntax: AUTH=address or AUTH=<>, in xtext: {why}") from None
    return text


def _by(value: bytes) -> tuple[int, str]:
    """RFC 2852 §4: nobody can return a message before it was sent."""
    found = _BY.fullmatch(value)
    seconds = int(found[1]) if found else 0
    if not found or (seconds <= 0 and found[2][:1].upper() == b"R"):
        raise _bad("Syntax: BY=seconds;R or BY=seconds;N, with T behind it for a trace")
    return seconds, found[2].upper().decode("ascii")


def _hold_for(value: bytes) -> int:
    """RFC 4865 §3.3."""
    if not _SECONDS.fullmatch(value) or not int(value):
        raise _bad("Syntax: HOLDFOR=seconds")
    return int(value)


def _hold_until(value: bytes) -> float:
    """RFC 4865 §3.3: a date and time of RFC 3339, here without fractions of a second."""
    if _MOMENT.fullmatch(value):
        try:
            return datetime.fromisoformat(value.decode("ascii")).timestamp()
        except (ValueError, OverflowError):
            pass
    raise _bad("Syntax: HOLDUNTIL=2026-12-31T23:59:59Z")


def _priority(value: bytes) -> int:
    """RFC 6710 §6."""
    if not _PRIORITY.fullmatch(value):
        raise _bad("Syntax: MT-PRIORITY=-9 to MT-PRIORITY=9")
    return int(value)


_NOTIFY_WORDS = {b"SUCCESS": "SUCCESS", b"FAILURE": "FAILURE", b"DELAY": "DELAY"}


def _notify(value: bytes) -> frozenset[str]:
    """RFC 3461 §4.1: NEVER stands alone."""
    words = value.upper().split(b",")
    if words == [b"NEVER"]:
        return frozenset({"NEVER"})
    if len(words) > len(_NOTIFY_WORDS) or not all(word in _NOTIFY_WORDS for word in words):
        raise _bad("Syntax: NOTIFY=NEVER or NOTIFY=SUCCESS,FAILURE,DELAY")
    return frozenset(_NOTIFY_WORDS[word] for word in words)


def _orcpt(value: bytes) -> str:
    """RFC 3461 §4.2; with UTF-8 in the address type of RFC 6533 §3."""
    kind, semicolon, address = value.partition(b";")
    utf8 = kind.lower() == b"utf-8"
    if (
        len(value) > _ORCPT_OCTETS
        or not semicolon
        or not _KEYWORD.fullmatch(kind)
        or not is_xtext(address, utf8)
    ):
        raise _bad(f"Syntax: ORCPT=rfc822;xtext, at most {_ORCPT_OCTETS} octets")
    return value.decode("utf-8")


class Parameter(NamedTuple):
    """One row: the event's field, who reads the value, and facts (``smtp_table``) that must be true."""

    field: str
    read: Callable[[bytes], Field]
    facts: int = 0


Parameters = Mapping[bytes, Parameter]

MAIL_PARAMETERS: Parameters = {
    b"SIZE": Parameter("size", _size),
    b"BODY": Parameter("body", _body),
    b"SMTPUTF8": Parameter("smtputf8", _alone),
    b"RET": Parameter("ret", _ret),
    b"ENVID": Parameter("envid", _envid),
    b"AUTH": Parameter("auth", _auth),
    b"BY": Parameter("by", _by),
    b"HOLDFOR": Parameter("hold_for", _hold_for, FUTURE_RELEASE),
    b"HOLDUNTIL": Parameter("hold_until", _hold_until, FUTURE_RELEASE),
    b"MT-PRIORITY": Parameter("priority", _priority, PRIORITY),
    b"REQUIRETLS": Parameter("require_tls", _alone, REQUIRE_TLS),
}
"""By keyword: the parameters of MAIL; the fields are those of ``MailFrom``."""

RCPT_PARAMETERS: Parameters = {
    b"NOTIFY": Parameter("notify", _notify),
    b"ORCPT": Parameter("orcpt", _orcpt),
}
"""By keyword: the parameters of RCPT; the fields are those of ``RcptTo``."""

_EVERYTHING = -1


def parse(text: bytes, known: Parameters, facts: int = _EVERYTHING) -> dict[str, Field]:
    """The fields that the parameters in ``text`` set, in a session of which ``facts`` are true.

    Raises:
        Unacceptable: 555 5.5.4 for a keyword that is unknown or not offered now (RFC 5321
            §4.1.1.11), 501 5.5.4 for the rest.
    """
    fields: dict[str, Field] = {}
    if not text:
        return fields
    for parameter in text.split(b" "):
        if not parameter:
            continue
        keyword, equals, value = parameter.partition(b"=")
        row = known.get(keyword) or known.get(keyword.upper())
        if row is None or facts & row.facts != row.facts:
            raise _unknown(keyword)
        name = row.field
        if name in fields:
            raise _bad(f"{keyword.decode('ascii').upper()} may be given only once")
        if equals and not value:
            raise _bad(f"{keyword.decode('ascii').upper()}= has no value")
        fields[name] = row.read(value)
    return fields


def _unknown(keyword: bytes) -> Unacceptable:
    if len(keyword) <= 32 and _KEYWORD.fullmatch(keyword):
        return Unacceptable(
            reply(555, "5.5.4", f"The parameter {keyword.decode('ascii')} is not known here now")
        )
    return _bad("Parameters are KEYWORD or KEYWORD=value, one space before each")
