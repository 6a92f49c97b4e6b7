"""The PROXY protocol, versions 1 and 2, as HAProxy's doc/proxy-protocol.txt has it (2020/03/05)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
"""What version 2 begins with (§2.2)."""

_TEXT_OCTETS = 107
"""The longest line of version 1, with its CRLF (§2.1)."""

MOST_OCTETS = 4096
"""The longest header of version 2 that is taken; more than addresses and a few TLVs is no header."""

_FAMILIES: dict[int, tuple[type[IPv4Address] | type[IPv6Address], int]] = {
    0x11: (IPv4Address, 4),
    0x21: (IPv6Address, 16),
}


class NotProxied(Exception):
    """These octets are no PROXY header."""


@dataclass(frozen=True, slots=True)
class Proxied:
    """A header: ``length`` octets that speak for the client at ``host`` and ``port``; ``host`` is
    ``""`` where the proxy speaks for itself (UNKNOWN, LOCAL, and families that are not IP)."""

    length: int
    host: str = ""
    port: int = 0


def parse(octets: bytes) -> Proxied | None:
    """The header at the beginning of ``octets``; ``None``: it is not whole yet.

    Raises:
        NotProxied: whatever follows, it will never be one.
    """
    if octets.startswith(b"PROXY "):
        return _text(octets)
    if octets.startswith(SIGNATURE):
        return _binary(octets)
    if SIGNATURE.startswith(octets) or b"PROXY ".startswith(octets):
        return None
    raise NotProxied("no PROXY header")


def _text(octets: bytes) -> Proxied | None:
    end = octets.find(b"\r\n", 0, _TEXT_OCTETS)
    if end < 0:
        if len(octets) >= _TEXT_OCTETS:
            raise NotProxied("a PROXY line without an end")
        return None
    try:
        words = octets[:end].decode("ascii").split(" ")
        if words[1] == "UNKNOWN":
            return Proxied(end + 2)
        _, family, source, target, port, to = words
        kind = {"TCP4": IPv4Address, "TCP6": IPv6Address}[family]
        kind(target)
        _port(to)
        return Proxied(end + 2, str(kind(source)), _port(port))
    except (ValueError, IndexError, KeyError):
        raise NotProxied("a malformed PROXY line") from None


def _port(text: str) -> int:
    if not text.isdecimal() or len(text) > 5 or int(text) > 65535:
        raise ValueError(text)
    return int(text)


def _binary(octets: bytes) -> Proxied | None:
    if len(octets) < 16:
        return None
    version, family, length = struct.unpack_from("!BBH", octets, 12)
    if version not in (0x20, 0x21) or length > MOST_OCTETS:
        raise NotProxied("an unknown version or command of the PROXY protocol")
    if len(octets) < 16 + length:
        return None
    if version == 0x20 or family not in _FAMILIES:
        return Proxied(16 + length)
    kind, size = _FAMILIES[family]
    if length < 2 * size + 4:
        raise NotProxied("a PROXY header without room for its addresses")
    (port,) = struct.unpack_from("!H", octets, 16 + 2 * size)
    return Proxied(16 + length, str(kind(octets[16 : 16 + size])), port)
