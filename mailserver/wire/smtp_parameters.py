"""The parameters of MAIL and RCPT: which there are, and what their values may be."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from mailserver.values.reply import Reply, reply
from mailserver.wire.grammar import Malformed, from_xtext, is_xtext, mailbox

_KEYWORD = re.compile(rb"[A-Za-z0-9][A-Za-z0-9-]*+")
_OCTETS = re.compile(rb"[0-9]{1,20}")
_ENVID_OCTETS = 100
_ORCPT_OCTETS = 500
"""RFC 3461 §4.2, §4.4."""

Field = str | int | bool | frozenset[str]


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
    """RFC 6152 §2; BINARYMIME needs BDAT (RFC 3030 §3), which is not offered."""
    body = value.upper()
    if body not in (b"7BIT", b"8BITMIME"):
        raise _bad("Syntax: BODY=7BIT or BODY=8BITMIME")
    return body.decode("ascii")


def _smtputf8(value: bytes) -> bool:
    if value:
        raise _bad("SMTPUTF8 takes no value")
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


Parameters = Mapping[bytes, tuple[str, Callable[[bytes], Field]]]

MAIL_PARAMETERS: Parameters = {
    b"SIZE": ("size", _size),
    b"BODY": ("body", _body),
    b"SMTPUTF8": ("smtputf8", _smtputf8),
    b"RET": ("ret", _ret),
    b"ENVID": ("envid", _envid),
    b"AUTH": ("auth", _auth),
}
"""By keyword: the field of ``MailFrom`` and who reads the value."""

RCPT_PARAMETERS: Parameters = {
    b"NOTIFY": ("notify", _notify),
    b"ORCPT": ("orcpt", _orcpt),
}
"""By keyword: the field of ``RcptTo`` and who reads the value."""


def parse(text: bytes, known: Parameters) -> dict[str, Field]:
    """The fields that the parameters in ``text`` set.

    Raises:
        Unacceptable: 555 5.5.4 for an unknown keyword (RFC 5321 §4.1.1.11), 501 5.5.4 for the rest.
    """
    fields: dict[str, Field] = {}
    if not text:
        return fields
    for parameter in text.split(b" "):
        if not parameter:
            continue
        keyword, equals, value = parameter.partition(b"=")
        row = known.get(keyword) or known.get(keyword.upper())
        if row is None:
            raise _unknown(keyword)
        name, read = row
        if name in fields:
            raise _bad(f"{keyword.decode('ascii').upper()} may be given only once")
        if equals and not value:
            raise _bad(f"{keyword.decode('ascii').upper()}= has no value")
        fields[name] = read(value)
    return fields


def _unknown(keyword: bytes) -> Unacceptable:
    if len(keyword) <= 32 and _KEYWORD.fullmatch(keyword):
        return Unacceptable(reply(555, "5.5.4", f"The parameter {keyword.decode('ascii')} is not known here"))
    return _bad("Parameters are KEYWORD or KEYWORD=value, one space before each")
