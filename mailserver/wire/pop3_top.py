"""TOP: a message's header, its blank line, and the first lines of its body (RFC 1939 §7)."""

from __future__ import annotations

_CRLF = b"\r\n"


class TopCutter:
    """Lets canonical content through, chunk by chunk, up to ``lines`` lines of the body."""

    __slots__ = ("_at_line_start", "_held_cr", "_in_header", "_left")

    def __init__(self, lines: int) -> None:
        self._left = lines
        self._in_header = True
        self._at_line_start = True
        self._held_cr = False

    @property
    def is_done(self) -> bool:
        """Whether nothing more can come through."""
        return not self._in_header and self._left == 0

    def feed(self, chunk: bytes) -> bytes:
        """What of ``chunk`` belongs to the top; a CR at its end waits for what follows it."""
        if self._held_cr:
            chunk = b"\r" + chunk
        self._held_cr = chunk.endswith(b"\r")
        if self._held_cr:
            chunk = chunk[:-1]
        if not self._in_header:
            return self._body(chunk)
        end = self._header_end(chunk)
        if chunk:
            self._at_line_start = chunk.endswith(_CRLF)
        if end < 0:
            return chunk
        self._in_header = False
        return chunk[:end] + self._body(chunk[end:])

    def finish(self) -> bytes:
        """What was held back at the end of the content."""
        return b"\r" if self._held_cr and not self.is_done else b""

    def _header_end(self, chunk: bytes) -> int:
        """Where the body begins; -1 when not in this chunk."""
        if self._at_line_start and chunk.startswith(_CRLF):
            return len(_CRLF)
        blank = chunk.find(b"\r\n\r\n")
        return blank if blank < 0 else blank + 4

    def _body(self, chunk: bytes) -> bytes:
        lines = chunk.count(_CRLF)
        if lines < self._left:
            self._left -= lines
            return chunk
        rest = chunk.split(_CRLF, self._left)[-1]
        self._left = 0
        return chunk[: len(chunk) - len(rest)]
