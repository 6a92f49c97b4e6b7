"""Files of records: one for each day (UTC) and writer, only ever added to, removed by age and by size.

A line is one JSON object that begins with ``{"q":"ID",``, so that an id is found without reading the
rest.  A crash leaves at most one torn line, which readers skip and the next writer closes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

FOLDER = "trace"
"""In the state folder."""

SUFFIX = ".trace"
COMMANDS = "commands"
"""The writer of what operators do with ``mailserver``."""

_MODE = 0o600


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """One file: its day (``2026-11-22``), who writes it (a worker's number, or ``COMMANDS``), and where."""

    day: str
    writer: str
    path: Path


def day_of(moment: float) -> str:
    """The day that a moment (seconds since the epoch) falls on."""
    return time.strftime("%Y-%m-%d", time.gmtime(moment))


def segments(folder: Path, since: float = 0.0) -> list[Segment]:
    """The segments that there are, oldest day first; those of days before ``since`` are left out."""
    found = []
    first = day_of(since)
    with suppress(FileNotFoundError):
        for name in os.listdir(folder):
            day, dot, writer = name.removesuffix(SUFFIX).partition(".")
            if name.endswith(SUFFIX) and dot and day >= first:
                found.append(Segment(day, writer, folder / name))
    return sorted(found)


def lines_of(segment: Segment, start: int = 0) -> Iterator[bytes]:
    """The whole lines from ``start`` on; a last one that is torn, or still being written, is left out."""
    with suppress(FileNotFoundError), segment.path.open("rb") as file:  # swept meanwhile
        file.seek(start)
        for line in file:
            if line.endswith(b"\n"):
                yield line


class SegmentWriter:
    """Adds to the segment of the day; ``keep`` in seconds and ``most`` octets say what older ones are for.

    Not for several threads.
    """

    def __init__(
        self,
        folder: Path,
        writer: str,
        keep: float,
        most: int,
        now: Callable[[], float] = time.time,
        header: Callable[[], bytes] = bytes,
    ) -> None:
        """``header`` gives the first lines of each new file."""
        self._header = header
        self._folder = folder
        self._writer = writer
        self._keep = keep
        self._most = most
        self._now = now
        self._day = ""
        self._fd = -1
        self._size = 0

    def write(self, octets: bytes) -> None:
        """Add whole lines.

        Raises:
            OSError: nothing of them was kept.
        """
        day = day_of(self._now())
        if day != self._day or self._fd < 0:
            self._open(day)
        try:
            left = memoryview(octets)
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise
        self._size += len(octets)

    def close(self) -> None:
        """Close the file. Harmless twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self, day: str) -> None:
        self.close()
        os.makedirs(self._folder, 0o700, exist_ok=True)
        path = self._folder / f"{day}.{self._writer}{SUFFIX}"
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        self._fd = os.open(path, flags, _MODE)
        self._day = day
        self._size = os.fstat(self._fd).st_size
        if self._size and os.pread(self._fd, 1, self._size - 1) != b"\n":
            self._size += os.write(self._fd, b"\n")  # what a crash has torn ends here
        elif not self._size:
            self._size += os.write(self._fd, self._header())
        sweep(self._folder, self._now() - self._keep, self._most, day)


def sweep(folder: Path, older: float, most: int, today: str) -> None:
    """Remove what is older than a moment, and the oldest days where all are more than ``most`` octets
    (0: no limit); today's segments stay."""
    kept: list[tuple[Segment, int]] = []
    first = day_of(older)
    for segment in segments(folder):
        with suppress(OSError):
            if segment.day < first:
                segment.path.unlink()
            else:
                kept.append((segment, segment.path.stat().st_size))
    total = sum(size for _, size in kept)
    for segment, size in kept:
        if not most or total <= most or segment.day >= today:
            return
        with suppress(OSError):
            segment.path.unlink()
        total -= size


def append(folder: Path, lines: Iterable[bytes], now: float) -> None:
    """Add what a command has done, in one write, beside what a running server writes.

    Raises:
        OSError: it cannot be written.
    """
    writer = SegmentWriter(folder, COMMANDS, 10**9, 0, lambda: now)
    try:
        writer.write(b"".join(lines))
    finally:
        writer.close()
