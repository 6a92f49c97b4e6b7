"""BINARYMIME made text as it streams by: parts in binary become base64 (RFC 3030 §3, RFC 2045 §6)."""

from __future__ import annotations

import binascii
import re

from mailserver.values.reply import Reply, reply

HEADER_OCTETS = 256 * 1024
"""The longest header of a message or part that is looked through."""
DEPTH = 10
"""Parts within parts."""
BOUNDARY_OCTETS = 70
"""RFC 2046 §5.1.1."""

HEADER_TOO_LONG = reply(550, "5.6.0", f"A header of the message is longer than {HEADER_OCTETS} octets")
TOO_DEEP = reply(550, "5.6.0", f"The message has parts within parts deeper than {DEPTH}")

_LINE_OCTETS = 57
_ENCODING = re.compile(
    rb"\r\nContent-Transfer-Encoding[ \t]*:([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)", re.IGNORECASE
)
_TYPE = re.compile(rb"\r\nContent-Type[ \t]*:([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)", re.IGNORECASE)
_COMMENT = re.compile(rb"\([^()]*\)")
_BOUNDARY = re.compile(rb';\s*boundary\s*=\s*(?:"((?:[^"\\]|\\.){1,140})"|([^\s";]{1,70}))', re.IGNORECASE)
_QUOTED_PAIR = re.compile(rb"\\(.)", re.DOTALL)

# What the next octets are.
_HEADER, _COPIED, _BINARY = range(3)


class BinaryMime:
    """A message, fed in pieces of any size; what comes out has no binary part any more.

    A part whose Content-Transfer-Encoding is ``binary`` gets ``base64``, a multipart or an enclosed
    message gets ``8bit`` and is looked into; everything else passes as it is, for others to check.
    Memory is bounded by ``HEADER_OCTETS``; every octet is looked at a bounded number of times.
    """

    __slots__ = (
        "_boundaries",
        "_buffer",
        "_delimiter",
        "_mode",
        "_out",
        "_searched",
        "_skip",
        "_unencoded",
        "fault",
    )

    def __init__(self) -> None:
        self.fault: Reply | None = None
        self._mode = _HEADER
        # A header begins behind an imagined CRLF, so that its first field is like any other.
        self._buffer = bytearray(b"\r\n")
        self._searched = 0
        self._skip = 0
        self._boundaries: list[bytes] = []
        self._delimiter: re.Pattern[bytes] | None = None
        self._unencoded = b""
        self._out: list[bytes] = []

    def feed(self, octets: bytes) -> bytes:
        """Take the next octets; what can be handed on."""
        self._buffer += octets
        while self.fault is None and (self._header() if self._mode == _HEADER else self._body()):
            pass
        return self._given()

    def finish(self) -> bytes:
        """What is left at the end of the message."""
        if self._mode == _HEADER:
            self._out.append(bytes(self._buffer[2:]))
        else:
            self._pass(bytes(self._buffer))
            self._end_part()
        self._buffer.clear()
        return self._given()

    def _given(self) -> bytes:
        given = b"".join(self._out)
        self._out.clear()
        return given

    # -- a header ------------------------------------------------------------------------------

    def _header(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n", max(0, self._searched - 3))
        if end < 0:
            self._searched = len(self._buffer)
            if self._searched > HEADER_OCTETS:
                self.fault = HEADER_TOO_LONG
            return False
        header = bytes(self._buffer[:end])
        # The body begins behind the line end of the empty line, which may be a delimiter's own.
        del self._buffer[: end + 2]
        self._searched = 0
        self._part_begins(header)
        return True

    def _part_begins(self, header: bytes) -> None:
        kind, boundary = _media_type(header)
        is_binary = _encoding(header) == b"binary"
        if kind.startswith(b"multipart/") and boundary:
            if len(self._boundaries) >= DEPTH:
                self.fault = TOO_DEEP
                return
            self._boundaries.append(boundary)
            self._compile()
            self._mode = _COPIED
        elif kind in (b"message/rfc822", b"message/global"):
            self._mode = _HEADER
        else:
            self._mode = _BINARY if is_binary else _COPIED
        if is_binary:
            header = _with_encoding(header, b"base64" if self._mode == _BINARY else b"8bit")
        self._out.append(header[2:] + b"\r\n" if len(header) > 2 else b"")
        if self._mode != _COPIED:
            # The empty line is handed on now: an enclosed header begins behind it, and what is
            # encoded behind that.
            self._out.append(b"\r\n")
            self._skip = 2

    def _compile(self) -> None:
        """One pattern finds the delimiter lines of all parts that are open (RFC 2046 §5.1.1)."""
        if not self._boundaries:
            self._delimiter = None
            return
        names = b"|".join(re.escape(name) for name in sorted(set(self._boundaries), key=len, reverse=True))
        self._delimiter = re.compile(rb"\r\n--(" + names + rb")(--)?[ \t]{0,80}(?=\r\n)")

    # -- a body --------------------------------------------------------------------------------

    def _body(self) -> bool:
        """Hand on what is surely no delimiter; whether there is more to do."""
        buffer = self._buffer
        found = self._delimiter.search(buffer) if self._delimiter else None
        if found is None:
            held = self._held(buffer)
            self._pass(bytes(buffer[: len(buffer) - held]))
            del buffer[: len(buffer) - held]
            return False
        line, name, is_last = bytes(found[0]), bytes(found[1]), found[2] is not None
        begin, end = found.span()
        self._pass(bytes(buffer[:begin]))
        self._end_part()
        self._out.append(line)
        while self._boundaries[-1] != name:
            self._boundaries.pop()
        del buffer[:end]
        if is_last:
            self._boundaries.pop()
            self._mode = _COPIED  # what stands behind the last part belongs to nobody
        else:
            self._out.append(b"\r\n")
            self._mode = _HEADER
        self._compile()
        return True

    def _held(self, buffer: bytearray) -> int:
        """How many octets at the end may be the beginning of a delimiter line."""
        if self._delimiter is None:
            return 0
        longest = max(map(len, self._boundaries)) + 88  # CRLF, dashes, padding and the next CRLF
        at = buffer.rfind(b"\r\n--", max(0, len(buffer) - longest))
        if at >= 0:
            return len(buffer) - at
        for tail in (b"\r\n-", b"\r\n", b"\r"):
            if buffer.endswith(tail):
                return len(tail)
        return 0

    def _pass(self, octets: bytes) -> None:
        if self._mode != _BINARY:
            self._out.append(octets)
            return
        skipped = min(self._skip, len(octets))
        self._skip -= skipped
        octets = self._unencoded + octets[skipped:]
        whole = len(octets) - len(octets) % _LINE_OCTETS
        self._unencoded = octets[whole:]
        self._out += [
            binascii.b2a_base64(octets[at : at + _LINE_OCTETS], newline=False) + b"\r\n"
            for at in range(0, whole, _LINE_OCTETS)
        ]

    def _end_part(self) -> None:
        rest, self._unencoded = self._unencoded, b""
        if rest:
            self._out.append(binascii.b2a_base64(rest, newline=False))


def _media_type(header: bytes) -> tuple[bytes, bytes]:
    """Type and subtype in lower case, and the boundary, or nothing."""
    found = _TYPE.search(header)
    if not found:
        return b"", b""
    value = found[1].replace(b"\r\n", b"")
    kind = _COMMENT.sub(b"", value.partition(b";")[0]).strip().lower()
    name = _BOUNDARY.search(value)
    if not name:
        return kind, b""
    boundary = _QUOTED_PAIR.sub(rb"\1", name[1]) if name[1] is not None else name[2]
    return kind, boundary.rstrip(b" ") if len(boundary) <= BOUNDARY_OCTETS else b""


def _encoding(header: bytes) -> bytes:
    found = _ENCODING.search(header)
    return _COMMENT.sub(b"", found[1].replace(b"\r\n", b"")).strip().lower() if found else b""


def _with_encoding(header: bytes, encoding: bytes) -> bytes:
    return _ENCODING.sub(b"\r\nContent-Transfer-Encoding: " + encoding, header, count=1)
