"""What earlier attempts have left in an mbox of the messages that are now delivered again."""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from mailserver.interfaces import Delivery
from mailserver.store.mbox_file import FROM, Region, message_pieces, occurrences, regions

_HEAD = 2048
"""Octets by which most other messages are told apart without a comparison: Received with its id is among
them, however long the sender's address is that stands three times before it."""

_TELLING = 16
"""Octets behind a hole by which most other messages are told apart."""


@dataclass(slots=True)
class Copies:
    """Of one delivery: the whole message, if it is there, and what torn attempts have left of it, in order;
    or why its content cannot be read."""

    whole: Region | None = None
    torn: list[Region] = field(default_factory=list)
    error: Exception | None = None


def find_copies(fd: int, size: int, deliveries: Sequence[Delivery]) -> list[Copies]:
    """What the first ``size`` octets of a locked mbox have of each delivery; they are read once for all.

    After a power cut every octet of an attempt is there, or is a zero, or is beyond the end: a hole
    may hide even the From_ line.
    """
    found = [Copies() for _ in deliveries]
    heads = _Heads(deliveries, found)
    for start, end in _all_regions(fd, size):
        head = os.pread(fd, min(_HEAD, end - start), start)
        for index in heads.like(head):
            copies = found[index]
            try:
                likeness, at = _compare(fd, start, end, message_pieces(deliveries[index]))
            except Exception as error:
                copies.error = error
                continue
            if likeness == "whole" and copies.whole is None:
                copies.whole = (start, at)  # behind it may be the rest of another, up to a known beginning
            elif likeness != "other":
                copies.torn.append((start, end))
    return found


def _all_regions(fd: int, size: int) -> list[Region]:
    """Of every message, and of what may be the rest of one whose beginning a hole hides; in order.

    Before the next that is known another may begin, so both ends are tried.
    """
    known = regions(fd, size)
    hidden = sorted({*_hidden_starts(fd, size)} - {start for start, _ in known})
    if not hidden:
        return known
    starts = [start for start, _ in known]
    found = set(known)
    every = sorted([*starts, *hidden])
    for start, following in zip(every, [*every[1:], size], strict=True):
        at = bisect_right(starts, start)
        found |= {(start, following), (start, starts[at] if at < len(starts) else size)}
    return sorted(found)


class _Heads:
    """How the wanted messages begin, in order: the few that a region may be a copy of are found by its own
    beginning, however many there are of both."""

    def __init__(self, deliveries: Sequence[Delivery], found: Sequence[Copies]) -> None:
        known = []
        for index, delivery in enumerate(deliveries):
            try:
                known.append((_head_of(delivery), index))
            except Exception as error:
                found[index].error = error
        known.sort()
        self._heads = [head for head, _ in known]
        self._indexes = [index for _, index in known]

    def like(self, head: bytes) -> list[int]:
        """Indexes of the messages of which a region that begins so may be a copy."""
        hole = head.find(b"\0")
        if hole >= 0:
            return [self._indexes[place] for place in self._with_hole(head, hole)]
        # A program that appended after a torn message may have ended its line first.
        is_telling = len(head) == _HEAD and not head.endswith(b"\n")
        wanted = head if is_telling else head.rstrip(b"\n")
        at = bisect_left(self._heads, wanted)
        likes = [self._indexes[place] for place in self._from(at, wanted)]
        if at and head.startswith(self._heads[at - 1]):
            likes.append(self._indexes[at - 1])  # a whole short message, and something behind it
        return likes

    def _from(self, at: int, beginning: bytes) -> Iterator[int]:
        while at < len(self._heads) and self._heads[at].startswith(beginning):
            yield at
            at += 1

    def _with_hole(self, head: bytes, hole: int) -> Iterator[int]:
        """By what stands before the hole and behind it."""
        before, rest = head[:hole], head[hole:].lstrip(b"\0")
        at = len(head) - len(rest)
        telling = rest.partition(b"\0")[0][:_TELLING].rstrip(b"\n")
        for place in self._from(bisect_left(self._heads, before), before):
            if telling.startswith(self._heads[place][at : at + len(telling)]):
                yield place


def _head_of(delivery: Delivery) -> bytes:
    head = b""
    for piece in message_pieces(delivery):
        head += piece
        if len(head) >= _HEAD:
            break
    return head[:_HEAD]


def _hidden_starts(fd: int, size: int) -> Iterator[int]:
    """Where a message may begin though ``From `` is not wholly there: zeros or the end cut it off."""
    for length in range(len(FROM)):
        beginning = FROM[:length]
        at_start = os.pread(fd, length + 1, 0)
        if at_start == beginning + b"\0" or (length and at_start == beginning and size == length):
            yield 0
        for at in occurrences(fd, size, b"\n\n" + beginning + b"\0"):
            yield at + 2
        if length and os.pread(fd, length + 2, max(0, size - length - 2)) == b"\n\n" + beginning:
            yield size - length


def _compare(fd: int, start: int, end: int, pieces: Iterable[bytes]) -> tuple[str, int]:
    """``"whole"``, ``"torn"`` or ``"other"``: what the region has of the message in ``pieces``; and up to
    where it was compared."""
    at = start
    holes = False
    for piece in pieces:
        found = os.pread(fd, min(len(piece), end - at), at)
        if found != piece:
            # A program that appended after the torn message may have ended its line first.
            ends_line = at + len(found) == end and _agrees(found.rstrip(b"\n"), piece)
            if not ends_line and not _agrees(found, piece):
                return "other", at
            holes = True
        at += len(found)
    return "torn" if holes else "whole", at


def _agrees(found: bytes, piece: bytes) -> bool:
    return all(f in (p, 0) for f, p in zip(found, piece, strict=False))
