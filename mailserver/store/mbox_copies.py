"""What earlier attempts have left in an mbox of the messages that are now delivered again."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator

from mailserver.interfaces import Delivery
from mailserver.store.mbox_file import FROM, Region, message_pieces, occurrences, regions

_HEAD = 512
"""Octets by which a message that is surely another one is passed over: our trace fields are among them."""


class Copies:
    """The messages and torn messages in the first ``size`` octets of a locked mbox, looked through once.

    After a power cut every octet of an attempt is there, or is a zero, or is beyond the end: a hole
    may hide even the From_ line.
    """

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        ends = dict(regions(fd, size))
        starts = sorted({*ends, *_hidden_starts(fd, size)})
        self._doubtful: list[Region] = []
        self._whole: defaultdict[bytes, list[Region]] = defaultdict(list)  # by what they begin with
        end = size
        for start in reversed(starts):
            region = start, ends.get(start, end)
            head = os.pread(fd, min(_HEAD, region[1] - start), start)
            if len(head) < _HEAD or b"\0" in head or head.endswith(b"\n"):
                self._doubtful.append(region)
            else:
                self._whole[head].append(region)
            if start in ends:
                end = start

    def of(self, delivery: Delivery) -> tuple[Region | None, list[Region]]:
        """The delivery's whole message, if it is there, and what torn attempts have left of it, in order."""
        whole: Region | None = None
        torn: list[Region] = []
        for start, end in self._similar(delivery):
            likeness = _compare(self._fd, start, end, message_pieces(delivery))
            if likeness == "whole" and whole is None:
                whole = (start, end)
            elif likeness != "other":
                torn.append((start, end))
        return whole, torn

    def _similar(self, delivery: Delivery) -> list[Region]:
        """What may be a copy of it: whatever has the same beginning, or a beginning that proves nothing."""
        head = b""
        for piece in message_pieces(delivery):
            head += piece
            if len(head) >= _HEAD:
                return sorted([*self._doubtful, *self._whole.get(head[:_HEAD], ())])
        return sorted([*self._doubtful, *(region for same in self._whole.values() for region in same)])


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


def _compare(fd: int, start: int, end: int, pieces: Iterable[bytes]) -> str:
    """``"whole"``, ``"torn"`` or ``"other"``: what the region has of the message in ``pieces``."""
    at = start
    holes = False
    for piece in pieces:
        found = os.pread(fd, min(len(piece), end - at), at)
        if found != piece:
            # A program that appended after the torn message may have ended its line first.
            ends_line = at + len(found) == end and _agrees(found.rstrip(b"\n"), piece)
            if not ends_line and not _agrees(found, piece):
                return "other"
            holes = True
        at += len(found)
    return "torn" if holes else "whole"


def _agrees(found: bytes, piece: bytes) -> bool:
    return all(f in (p, 0) for f, p in zip(found, piece, strict=False))
