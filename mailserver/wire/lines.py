"""Command lines out of a stream of octets: bounded, whole, one at a time."""

from __future__ import annotations

from collections.abc import Callable


class LineTooLong(Exception):
    """The line is over its limit. Raised once for a line; the rest of it is swallowed unseen."""


class LineBuffer:
    """Keeps what was fed until it is asked for the next line.

    A line ends in LF, and one CR before it belongs to the end: people type with tools that send LF
    alone.  ``limit`` is the longest line in octets without its end; a line beyond it is measured
    against ``longer(its first 8 octets)``.  A line over the limit never costs more than the limit.

    How much is fed beyond the line at hand is up to the caller, who watches ``pending``.
    """

    __slots__ = ("_buffer", "_limit", "_longer", "_searched", "_start", "_swallowing")

    def __init__(self, limit: int, longer: Callable[[bytes], int] | None = None) -> None:
        self._buffer = b""
        self._start = 0
        self._searched = 0
        self._limit = limit
        self._longer = longer
        self._swallowing = False

    @property
    def pending(self) -> int:
        """Octets that were fed and not yet given out."""
        return len(self._buffer) - self._start

    def feed(self, octets: bytes) -> None:
        """Append what arrived."""
        if self._start == len(self._buffer):
            self._buffer = octets
            self._start = self._searched = 0
        else:
            self._buffer = self._buffer[self._start :] + octets
            self._searched -= self._start
            self._start = 0

    def clear(self) -> None:
        """Forget everything that was fed (STLS, RFC 2595 §4)."""
        self._buffer = b""
        self._start = self._searched = 0
        self._swallowing = False

    def next_line(self) -> bytes | None:
        """The next line without its end; ``None`` when it is not all there yet.

        Raises:
            LineTooLong: in place of the line.
        """
        buffer, start = self._buffer, self._start
        if start == len(buffer):
            return None
        end = buffer.find(b"\n", self._searched)
        if end < 0:
            self._measure_unfinished()
            return None
        self._start = self._searched = end + 1
        if self._swallowing:
            self._swallowing = False
            return self.next_line()
        line = buffer[start:end].removesuffix(b"\r")
        if len(line) > self._limit and len(line) > self._limit_for(line):
            raise LineTooLong
        return line

    def _measure_unfinished(self) -> None:
        self._searched = len(self._buffer)
        if self._swallowing:
            self._start = self._searched
        # One octet more than the limit may still be the CR of the line's end.
        elif self.pending > self._limit + 1 and self.pending > 1 + self._limit_for(
            self._buffer[self._start :]
        ):
            self._start = self._searched
            self._swallowing = True
            raise LineTooLong

    def _limit_for(self, line: bytes) -> int:
        return self._longer(line[:8]) if self._longer else self._limit
