"""The TRANSACTION state's commands: numbers, sizes, unique ids and marks of a snapshot (RFC 1939 §5, §7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from mailserver.wire.pop3_events import Event, Transmit, retrieve
from mailserver.wire.pop3_replies import Replies
from mailserver.wire.pop3_table import SyntaxWrong, nothing, number

LISTED_AT_ONCE = 1000
"""Lines of LIST or UIDL that are queued in one go; a longer response is a ``Transmit``."""


class Columns(Protocol):
    """A snapshot as the maildrop lists it: ``values.listing.Listings``."""

    @property
    def octets(self) -> Sequence[int]: ...
    @property
    def unique_ids(self) -> Sequence[str]: ...


class Pop3Mail:
    """Answers what needs no more than the snapshot. ``marked`` are indexes, from 0."""

    def __init__(self, replies: Replies, listings: Columns) -> None:
        self._replies = replies
        self._octets = listings.octets
        self._unique_ids = listings.unique_ids
        self.marked: set[int] = set()
        self._total = sum(self._octets)
        self._last = 0
        self.actions: dict[bytes, Callable[[bytes], Event | None]] = {
            b"STAT": self._stat,
            b"LIST": self._list,
            b"RETR": self._retr,
            b"DELE": self._dele,
            b"NOOP": self._noop,
            b"RSET": self._rset,
            b"TOP": self._top,
            b"UIDL": self._uidl,
            b"LAST": self._last_accessed,
        }

    @property
    def _count(self) -> int:
        return len(self._octets) - len(self.marked)

    @property
    def summary_words(self) -> str:
        """The sentence that ``summary`` fills in."""
        return "1 message, {octets} octets" if self._count == 1 else "{messages} messages, {octets} octets"

    def summary(self) -> dict[str, object]:
        """Messages that are not marked, and their octets."""
        return {"messages": self._count, "octets": self._total}

    def _message(self, word: bytes) -> int | None:
        """The index of the message that ``word`` numbers; ``None`` when there is none, which is told."""
        index = number(word) - 1
        if not 0 <= index < len(self._octets):
            self._replies.err("No such message, there are {count}", count=len(self._octets))
        elif index in self.marked:
            self._replies.err("Message {number} is marked as deleted", number=index + 1)
        else:
            return index
        return None

    def _stat(self, rest: bytes) -> None:
        nothing(rest)
        self._replies.put(b"+OK %d %d\r\n" % (self._count, self._total))

    def _list(self, rest: bytes) -> Event | None:
        return self._tell(rest, self._octets)

    def _uidl(self, rest: bytes) -> Event | None:
        return self._tell(rest, self._unique_ids)

    def _tell(self, rest: bytes, column: Sequence[object]) -> Event | None:
        """LIST and UIDL: one message, or all that are not marked, under the numbers they keep."""
        if word := rest.strip(b" "):
            index = self._message(word)
            if index is not None:
                self._replies.put(f"+OK {index + 1} {column[index]}\r\n".encode())
            return None
        pieces = self._pieces(column)
        if len(column) > LISTED_AT_ONCE:
            return Transmit(pieces)
        self._replies.put(b"".join(pieces))
        return None

    def _pieces(self, column: Sequence[object]) -> Iterator[bytes]:
        yield self._replies.line("+OK", self.summary_words, **self.summary())
        marked = self.marked
        for start in range(0, len(column), LISTED_AT_ONCE):
            numbered = enumerate(column[start : start + LISTED_AT_ONCE], start + 1)
            lines = [f"{n} {value}\r\n" for n, value in numbered if n - 1 not in marked]
            yield "".join(lines).encode()
        yield b".\r\n"

    def _retr(self, rest: bytes) -> Event | None:
        index = self._message(rest)
        if index is None:
            return None
        if index >= self._last:
            self._last = index + 1
        return retrieve(index, None, b"+OK %d octets\r\n" % self._octets[index])

    def _top(self, rest: bytes) -> Event | None:
        words = rest.split()
        if len(words) != 2:
            raise SyntaxWrong
        lines = number(words[1])
        index = self._message(words[0])
        return None if index is None else retrieve(index, lines, b"+OK Top of message follows\r\n")

    def _dele(self, rest: bytes) -> None:
        index = self._message(rest)
        if index is not None:
            self.marked.add(index)
            self._last = max(self._last, index + 1)
            self._total -= self._octets[index]
            self._replies.ok("Message {number} marked as deleted", number=index + 1)

    def _rset(self, rest: bytes) -> None:
        nothing(rest)
        self._total += sum(self._octets[index] for index in self.marked)
        self.marked.clear()
        self._last = 0
        self._replies.ok(self.summary_words, **self.summary())

    def _last_accessed(self, rest: bytes) -> None:
        """The highest number read or marked in this session (RFC 1225; RFC 1939 has dropped it)."""
        nothing(rest)
        self._replies.put(b"+OK %d\r\n" % self._last)

    def _noop(self, rest: bytes) -> None:
        nothing(rest)
        self._replies.put(b"+OK\r\n")
