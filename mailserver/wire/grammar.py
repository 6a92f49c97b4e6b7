"""Paths and xtext as SMTP writes them (RFC 5321 §4.1.2, §4.1.3; RFC 6531 §3.3; RFC 3461 §4), in linear time.

Two things are accepted that the standard does not have, because people and programs send them: a
path without angle brackets where nothing is ambiguous (``MAIL FROM:ada@example.test``), and an
underscore in a domain.  Source routes are parsed and forgotten (RFC 5321 appendix C): only the
mailbox behind the last colon counts, so nothing is ever relayed by way of one.
"""

from __future__ import annotations

import re
import unicodedata
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from mailserver.values.address import NULL_SENDER, Address, domain_key

LOCAL_PART_OCTETS = 64
DOMAIN_OCTETS = 255
PATH_OCTETS = 256
"""RFC 5321 §4.5.3.1.1 to §4.5.3.1.3; the path with its brackets and source route."""
LABEL_OCTETS = 63
"""RFC 1035 §2.3.4."""

# Repeats of one character are possessive (Python 3.11), and every repeat of a group can go on in one way
# alone: so time is linear. A possessive repeat of a group would match what it must not in Python 3.11.2,
# which Debian 12 has.
_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_ATEXT8 = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\xff-]"
_NAME = r"[A-Za-z0-9_\x80-\xff-]++(?:\.[A-Za-z0-9_\x80-\xff-]++)*"
_LITERAL = r"\[[!-Z^-~]*+\]"

_LABEL = r"[A-Za-z0-9_]++(?:-++[A-Za-z0-9_]++)*"

# The paths of nearly all mail, known by one pattern; all others are taken apart by _any_path.
_PLAIN = {
    keyword: re.compile(
        (
            rf"(?i:{keyword.decode()}) *+<({_ATEXT}++(?:\.{_ATEXT}++)*)@({_LABEL}(?:\.{_LABEL})*)>"
            r"(?: ++(.++))?"
        ).encode(),
        re.DOTALL,
    )
    for keyword in (b"FROM:", b"TO:")
}
_DOT_STRING = re.compile(rf"{_ATEXT8}++(?:\.{_ATEXT8}++)*".encode("latin-1"))
_QUOTED_STRING = re.compile(rb'"((?:[ !#-\[\]-~\x80-\xff]++|\\[ -~])*)"')
_QUOTED_PAIR = re.compile(rb"\\(.)")
_DOMAIN = re.compile(f"{_NAME}|{_LITERAL}".encode("latin-1"))
_ROUTE = re.compile(rf"@(?:{_NAME}|{_LITERAL})(?:,@(?:{_NAME}|{_LITERAL}))*:".encode("latin-1"))
_BAD_LABEL = re.compile(r"(?:^|\.)-|-(?:\.|$)|[^.]{64}")
_XTEXT = re.compile(rb"(?:[!-*,-<>-~]|\+[2-6][0-9A-F]|\+7[0-9A-E])+")
_UTF8_XTEXT = re.compile(rb"(?:[!-*,-<>-~\x80-\xff]|\+[2-6][0-9A-F]|\+7[0-9A-E])+")
_XTEXT_PAIR = re.compile(r"\+([0-9A-F]{2})")

# What must not stand in a header, a log or a comparison: controls, line ends and spaces beyond
# ASCII, marks that turn the direction of the text, noncharacters.
_UNFIT = re.compile(
    "[\x00-\x1f\x7f-\xa0\u1680\u2000-\u200b\u200e\u200f\u2028-\u202f\u205f-\u206f\u3000\ufdd0-\ufdef\ufeff\ufff9-\uffff]"
)


class Malformed(ValueError):
    """The octets do not follow the grammar; the text tells the client why, in a few words."""


class Path(NamedTuple):
    """A parsed path and what followed it: the parameters, without the space before them."""

    address: Address
    rest: bytes


def path(argument: bytes, keyword: bytes) -> Path | None:
    """The path in the argument of MAIL (``keyword`` is ``FROM:``) or RCPT (``TO:``).

    ``argument`` holds no control characters (the reader of command lines sees to that) and may
    hold UTF-8; whether the session allows it is for the caller to ask (``Address.is_ascii``).
    ``None`` when the keyword is not there, or nothing is behind it.

    Raises:
        Malformed: what stands behind the keyword is no path.
    """
    plain = _PLAIN[keyword].fullmatch(argument)
    if plain:
        local, domain, rest = plain.groups()
        if len(local) <= LOCAL_PART_OCTETS and len(domain) <= LABEL_OCTETS:
            return Path(Address(local.decode("ascii"), domain.decode("ascii")), rest or b"")
    text = argument[len(keyword) :].lstrip(b" ")
    if not text or argument[: len(keyword)].upper() != keyword:
        return None
    return _any_path(text)


def _any_path(text: bytes) -> Path:
    if text.startswith(b"<>"):
        return Path(NULL_SENDER, _rest(text, 2))
    if not text.startswith(b"<"):
        address, end = _mailbox(text, 0)
        _check_length(end + 2)
        return Path(address, _rest(text, end))
    begin = 1
    if text.startswith(b"@", begin):
        route = _ROUTE.match(text, begin)
        if not route:
            raise Malformed("the source route is malformed")
        begin = route.end()
    address, end = _mailbox(text, begin)
    if not text.startswith(b">", end):
        raise Malformed("expected > after the address")
    _check_length(end + 1)
    return Path(address, _rest(text, end + 1))


def _check_length(octets: int) -> None:
    if octets > PATH_OCTETS:
        raise Malformed(f"a path has at most {PATH_OCTETS} octets")


def _rest(text: bytes, end: int) -> bytes:
    if len(text) > end and text[end] != 0x20:
        raise Malformed("expected a space or the end of the line after the address")
    return text[end:].strip(b" ")


def mailbox(text: bytes) -> Address:
    """The mailbox that ``text`` is, whole, without brackets.

    Raises:
        Malformed: it is no mailbox.
    """
    address, end = _mailbox(text, 0)
    if end != len(text):
        raise Malformed("something stands behind the address")
    return address


def _mailbox(text: bytes, begin: int) -> tuple[Address, int]:
    """``local-part@domain`` or the bare Postmaster, and where it ends."""
    local, end = _local_part(text, begin)
    if text.startswith(b"@", end):
        domain, end = _domain(text, end + 1)
        return Address(local, domain), end
    if local.lower() == "postmaster":
        return Address(local, ""), end
    raise Malformed("expected @ and a domain")


def _local_part(text: bytes, begin: int) -> tuple[str, int]:
    found = _DOT_STRING.match(text, begin)
    if found:
        octets = found[0]
    else:
        found = _QUOTED_STRING.match(text, begin)
        if not found:
            raise Malformed("the local part is malformed")
        _check_local_part(found[1], 2 * LOCAL_PART_OCTETS)  # every octet may be a quoted pair
        octets = _QUOTED_PAIR.sub(rb"\1", found[1])
    if not octets:
        raise Malformed("the local part is empty")
    _check_local_part(octets, LOCAL_PART_OCTETS)
    return _text(octets), found.end()


def _check_local_part(octets: bytes, limit: int) -> None:
    if len(octets) > limit:
        raise Malformed(f"a local part has at most {LOCAL_PART_OCTETS} octets")


def _domain(text: bytes, begin: int) -> tuple[str, int]:
    found = _DOMAIN.match(text, begin)
    if not found:
        raise Malformed("the domain is malformed")
    octets = found[0]
    if len(octets) > DOMAIN_OCTETS:
        raise Malformed(f"a domain has at most {DOMAIN_OCTETS} octets")
    domain = _text(octets)
    if domain.startswith("["):
        _check_literal(domain[1:-1])
    else:
        _check_name(domain)
    return domain, found.end()


def _check_name(domain: str) -> None:
    """A-labels of every name must be names; a U-label must be one that IDNA knows (RFC 6531 §3.2)."""
    ascii_form = domain_key(domain)
    if not ascii_form.isascii() or len(ascii_form) > DOMAIN_OCTETS or _BAD_LABEL.search(ascii_form):
        raise Malformed("the domain is malformed")


def _check_literal(literal: str) -> None:
    """RFC 5321 §4.1.3; no tag but IPv6 has ever been registered."""
    try:
        if literal[:5].lower() == "ipv6:":
            if "%" in literal:
                raise ValueError("an address literal has no zone")
            IPv6Address(literal[5:])
        else:
            IPv4Address(literal)
    except ValueError:
        raise Malformed("the address literal is malformed") from None


def _text(octets: bytes) -> str:
    """UTF-8 in NFC (RFC 6531 §3.3, RFC 5198) and fit to be shown."""
    if octets.isascii():
        return octets.decode("ascii")
    text = decoded(octets)
    return unicodedata.normalize("NFC", text)


def decoded(octets: bytes) -> str:
    """UTF-8 without anything that could break a header, a log or a comparison.

    Raises:
        Malformed: the octets are not UTF-8, or hold control characters.
    """
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed("not valid UTF-8") from None
    if _UNFIT.search(text):
        raise Malformed("control characters are not allowed")
    return text


def is_xtext(octets: bytes, utf8: bool = False) -> bool:
    """Whether ``octets`` are xtext of printable characters (RFC 3461 §4), or of UTF-8 too (RFC 6533 §3).

    ``+0D+0A`` would be xtext too, but a decoded line end has no business anywhere.
    """
    if not utf8 or octets.isascii():
        return _XTEXT.fullmatch(octets) is not None
    if not _UTF8_XTEXT.fullmatch(octets):
        return False
    try:
        decoded(octets)
    except Malformed:
        return False
    return True


def to_xtext(text: str) -> str:
    """``text`` in xtext (RFC 3461 §4); what is outside ASCII stays, for RFC 6533's form."""
    return "".join(c if ("!" <= c <= "~" and c not in "+=") or c > "\x7f" else f"+{ord(c):02X}" for c in text)


def from_xtext(octets: bytes) -> str:
    """What ``octets``, for which ``is_xtext`` is true, stand for."""
    return _XTEXT_PAIR.sub(lambda pair: chr(int(pair[1], 16)), octets.decode("utf-8"))
