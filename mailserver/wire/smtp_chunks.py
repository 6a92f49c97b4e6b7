"""The content of BDAT, in chunks: checked and made canonical as it comes (RFC 3030)."""

from __future__ import annotations

import re
from typing import Protocol

from mailserver.values.line_ends import lf_text
from mailserver.values.reply import Reply
from mailserver.wire.binary_mime import BinaryMime
from mailserver.wire.smtp_data import TEXT_LINE_OCTETS, TOO_LARGE, ContentScanner

GATHERED_OCTETS = 16 * 1024
"""Small chunks are handed on together when they have come to this size."""

_CHUNK = re.compile(rb"([0-9]{1,20})(?: +(LAST))?", re.IGNORECASE)


def chunk_from(argument: bytes) -> tuple[int, bool] | None:
    """Octets and whether it is the last, as the argument of BDAT says them (RFC 3030 §2)."""
    found = _CHUNK.fullmatch(argument)
    return (int(found[1]), found[2] is not None) if found else None


class Checked(Protocol):
    """Content on its way through: what ``scan`` and ``finish`` give is canonical."""

    @property
    def fault(self) -> Reply | None: ...

    def scan(self, octets: bytes) -> bytes: ...

    def finish(self) -> bytes: ...


class TextScanner(ContentScanner):
    """Text that came by BDAT: its length is told beforehand, so nothing ends it and no dot is stuffed.

    Its lines obey the same rules (RFC 3030 §2: BDAT is no licence for bare CR or LF).  A last line
    without CRLF gets one, because content at rest is lines.
    """

    __slots__ = ()

    def __init__(self, size_limit: int, line_limit: int = TEXT_LINE_OCTETS, normalize: bool = False) -> None:
        super().__init__(size_limit, line_limit, normalize)
        self._carry = b""

    def scan(self, octets: bytes) -> bytes:
        """Take the next octets; the content to hand on, which may be empty."""
        piece = self._carry + octets if self._carry else octets
        self._carry = b""
        if piece.endswith(b"\r"):
            piece, self._carry = piece[:-1], b"\r"
        if lf_text(piece) is None:
            if self._normalize:
                piece = _mended(piece)
            else:
                self._bare = True
        if b"\0" in piece:
            self._nul = True
        self._size += len(piece)
        self._measure(piece)
        return b"" if self.fault else piece

    def finish(self) -> bytes:
        """What is still to be handed on at the end of the last chunk."""
        rest = b""
        if self._carry:
            self._carry = b""
            if not self._normalize:
                self._bare = True
            rest = b" "
            self._line += 1
        if self._line:
            rest += b"\r\n"
        self._size += len(rest)
        return b"" if self.fault else rest


def _mended(piece: bytes) -> bytes:
    return piece.replace(b"\r\n", b"\n").replace(b"\r", b" ").replace(b"\n", b"\r\n")


class BinaryScanner:
    """Content of BODY=BINARYMIME: its binary parts become base64, so that what is kept is text.

    The limit is for the octets as they come; base64 adds a third.
    """

    __slots__ = ("_limit", "_mime", "_size", "_text")

    def __init__(self, size_limit: int) -> None:
        self._limit = size_limit
        self._size = 0
        self._mime = BinaryMime()
        self._text = TextScanner(2 * size_limit + GATHERED_OCTETS)

    @property
    def fault(self) -> Reply | None:
        """The first in this order, not in time: so it does not depend on how the octets were cut."""
        return self._unreadable or self._text.fault

    @property
    def _unreadable(self) -> Reply | None:
        return TOO_LARGE if self._size > self._limit else self._mime.fault

    def scan(self, octets: bytes) -> bytes:
        self._size += len(octets)
        if self._unreadable:
            return b""
        text = self._text.scan(self._mime.feed(octets))
        return b"" if self.fault else text

    def finish(self) -> bytes:
        if self._unreadable:
            return b""
        text = self._text.scan(self._mime.finish()) + self._text.finish()
        return b"" if self.fault else text


class ChunkReader:
    """The chunks of one transaction: constant memory and work, however many and small they are."""

    __slots__ = ("_finished", "_gathered", "_scanner", "is_last", "left")

    def __init__(self, scanner: Checked) -> None:
        self._scanner = scanner
        self._gathered = bytearray()
        self._finished = False
        self.left = 0
        """Octets of the chunk that are still to come."""
        self.is_last = False

    @property
    def fault(self) -> Reply | None:
        return self._scanner.fault

    def begin(self, octets: int, is_last: bool) -> None:
        """A BDAT command was accepted."""
        self.left = octets
        self.is_last = is_last

    def take(self, piece: bytes) -> bytes:
        """At most ``left`` octets of the chunk; content to hand on now, mostly empty for small pieces."""
        self.left -= len(piece)
        content = self._scanner.scan(piece)
        if not self._gathered and len(content) >= GATHERED_OCTETS:
            return content
        self._gathered += content
        return self._given() if len(self._gathered) >= GATHERED_OCTETS else b""

    def finish(self) -> bytes:
        """The rest of the content, after the last chunk; empty when there is a fault, and later."""
        if not self._finished:
            self._finished = True
            self._gathered += self._scanner.finish()
        return b"" if self.fault else self._given()

    def _given(self) -> bytes:
        content = bytes(self._gathered)
        self._gathered.clear()
        return content
