"""An mbox as octets: where its messages begin, how one is written, and what a torn one looks like."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from itertools import chain

from mailserver.interfaces import Delivery
from mailserver.store.mboxrd import quoted
from mailserver.store.octets import to_lf
from mailserver.values.address import Address

Region = tuple[int, int]
"""Where a message begins, and where the next one begins or the file ends, in octets."""

_FROM = b"From "
_BOUNDARY = b"\n\n" + _FROM
_SCAN_OCTETS = 1024 * 1024


def from_line(reverse_path: Address, arrived: float) -> bytes:
    """The line that begins a message (RFC 4155, Appendix A): the same in every attempt."""
    sender = "".join(c if c.isprintable() and c != " " else "-" for c in str(reverse_path))
    # asctime writes English names in every locale.
    return f"From {sender or 'MAILER-DAEMON'} {time.asctime(time.gmtime(arrived))}\n".encode()


def message_pieces(delivery: Delivery) -> Iterator[bytes]:
    """The message as it stands in the mbox: From_ line, quoted content, an empty line."""
    yield from_line(delivery.reverse_path, delivery.arrived)
    last = b"\n"
    for piece in quoted(to_lf(chain((delivery.header,), delivery.content.chunks()))):
        if piece:
            last = piece[-1:]
            yield piece
    yield b"\n" if last == b"\n" else b"\n\n"


def regions(fd: int, size: int) -> list[Region]:
    """The messages in the first ``size`` octets.

    A message begins with ``From `` at the file's start or after an empty line; what stands before
    the first one belongs to none.
    """
    starts = [0] if os.pread(fd, len(_FROM), 0) == _FROM else []
    starts += [at + 2 for at in _occurrences(fd, size, _BOUNDARY)]
    return list(zip(starts, [*starts, size][1:], strict=True))


def separator(fd: int, size: int) -> bytes:
    """What must be written first, so that a message appended at ``size`` does begin a message."""
    end = os.pread(fd, 2, max(0, size - 2)) if size else b"\n\n"
    return b"" if end == b"\n\n" else b"\n" if end.endswith(b"\n") else b"\n\n"


def find_copies(fd: int, size: int, delivery: Delivery) -> tuple[Region | None, list[Region]]:
    """The delivery's whole message, if it is there, and what torn attempts have left of it.

    After a power cut every octet of an attempt is there, or is a zero, or is beyond the end: a hole
    may hide even the From_ line.
    """
    known = regions(fd, size)
    ends = dict(known)
    starts = sorted({*ends, *_hidden_starts(fd, size)})
    whole: Region | None = None
    torn: list[Region] = []
    for at, start in enumerate(starts):
        end = ends.get(start) or next((s for s in starts[at + 1 :] if s in ends), size)
        likeness = _compare(fd, start, end, message_pieces(delivery))
        if likeness == "whole" and whole is None:
            whole = (start, end)
        elif likeness != "other":
            torn.append((start, end))
    return whole, torn


def _hidden_starts(fd: int, size: int) -> Iterator[int]:
    """Where a message may begin though ``From `` is not wholly there: zeros or the end cut it off."""
    for length in range(len(_FROM)):
        beginning = _FROM[:length]
        at_start = os.pread(fd, length + 1, 0)
        if at_start == beginning + b"\0" or (length and at_start == beginning and size == length):
            yield 0
        for at in _occurrences(fd, size, b"\n\n" + beginning + b"\0"):
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


def _occurrences(fd: int, size: int, wanted: bytes) -> Iterator[int]:
    """Offsets of ``wanted`` in the first ``size`` octets, read in pieces."""
    at = 0
    while at < size:
        window = os.pread(fd, min(_SCAN_OCTETS, size - at), at)
        if not window:
            return
        found = window.find(wanted)
        while found >= 0:
            yield at + found
            found = window.find(wanted, found + 1)
        if at + len(window) >= size:
            return
        at += max(1, len(window) - len(wanted) + 1)
