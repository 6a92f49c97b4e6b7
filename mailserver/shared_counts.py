"""Counts that several worker processes keep together, in one small file that all of them map.

Each worker has a region of its own, which it alone writes; the others read it. So nothing is locked,
nothing is synced, a worker that dies takes nothing along but what it had counted itself, and the one
that comes in its place begins with an empty region. What a client has done is counted in a cell that
its network's name leads to; two networks may meet in one cell, and are then limited together.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

CELLS = 8192
"""Cells of each kind: for the 5,000 connections of a usual limit, few share one."""

CONNECTIONS, MESSAGES, RECIPIENTS = range(3)
"""What is counted of a client. The first is a state, the others belong to a minute."""

LATE_SECONDS = 10
"""New connections are compared over so many seconds, and then anew."""

FILE_NAME = "counts"
"""The file in the state folder."""

_KINDS = 3
_TOTAL, _MINUTE, _PERIOD, _TAKEN = range(4)
_HEAD = 16  # numbers before the cells: connections, the minute of rates, a period and what was accepted in it
_REGION = _HEAD + _KINDS * CELLS
_SEED_OCTETS = 32
_FIRST = 4096  # the seed has a page of its own
_NUMBER = 4  # octets; aligned, so that nobody ever reads half of one
_PER_MINUTE = CELLS * 2


class SharedCounts:
    """Worker ``worker``'s view of the counts of ``workers`` processes. Nothing is opened before ``open``."""

    def __init__(
        self, path: Path, worker: int, workers: int, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._now = now  # the same clock for all processes
        self._worker = worker
        self._others = [number for number in range(workers) if number != worker]
        self._octets = _FIRST + workers * _REGION * _NUMBER
        self._map: mmap.mmap | None = None
        self._cells = memoryview(b"")
        self._mine = worker * _REGION
        self._cell_of = lru_cache(maxsize=8192)(self._find)
        self._seed = b""

    def open(self) -> None:
        """Map the file, making it when it is absent; this worker's region begins anew.

        Raises:
            OSError: it cannot be mapped.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        try:
            if os.fstat(descriptor).st_size != self._octets:
                os.ftruncate(descriptor, self._octets)
            self._map = mmap.mmap(descriptor, self._octets)
        finally:
            os.close(descriptor)
        if self._map[:_SEED_OCTETS] == bytes(_SEED_OCTETS):
            self._map[:_SEED_OCTETS] = os.urandom(_SEED_OCTETS)  # worker 0's work: it starts first and alone
        self._seed = self._map[:_SEED_OCTETS]
        self._cells = memoryview(self._map)[_FIRST:].cast("I")
        self._clear(self._mine, _REGION)

    def close(self) -> None:
        """Take back what this worker had counted. Harmless twice."""
        if self._map is not None:
            self._clear(self._mine, _REGION)
            self._cells.release()
            self._map.close()
            self._map = None

    # -- connections -----------------------------------------------------------------------------

    def connected(self, network: str, change: int) -> None:
        """One connection more (1) or less (-1) from ``network``."""
        if self._map is None:
            return  # closed: a session that ended late
        self._add(self._mine + _TOTAL, change)
        self._add(self._mine + _HEAD + self._cell_of(network), change)

    def connections(self, network: str) -> int:
        """Connections from ``network`` to the other workers."""
        at = _HEAD + self._cell_of(network)
        return sum(self._cells[number * _REGION + at] for number in self._others)

    def all_connections(self) -> int:
        """All connections to the other workers."""
        return sum(self._cells[number * _REGION + _TOTAL] for number in self._others)

    # -- new connections -------------------------------------------------------------------------

    def took(self) -> None:
        """This worker has accepted a connection."""
        if self._map is None:
            return
        period = self._period()
        if self._cells[self._mine + _PERIOD] != period:
            self._cells[self._mine + _PERIOD], self._cells[self._mine + _TAKEN] = period, 0
        self._add(self._mine + _TAKEN, 1)

    def is_busier(self) -> bool:
        """Whether this worker has accepted clearly more of late than the one that has the fewest.

        Not by those that are open: idle ones are no work, and a worker that begins anew would get all."""
        if self._map is None:
            return False
        period = self._period()
        fewest = min(self._taken(number * _REGION, period) for number in self._others)
        return self._taken(self._mine, period) > fewest + 3 + fewest // 4

    def _taken(self, region: int, period: int) -> int:
        return self._cells[region + _TAKEN] if self._cells[region + _PERIOD] == period else 0

    def _period(self) -> int:
        return int(self._now() / LATE_SECONDS) & 0xFFFFFFFF

    # -- rates -----------------------------------------------------------------------------------

    def count(self, kind: int, network: str, minute: int) -> None:
        """One message or recipient more from ``network``, in this minute since the epoch."""
        if self._cells[self._mine + _MINUTE] != minute & 0xFFFFFFFF:
            self._clear(self._mine + _HEAD + CELLS, _PER_MINUTE)
            self._cells[self._mine + _MINUTE] = minute & 0xFFFFFFFF
        self._add(self._mine + _HEAD + kind * CELLS + self._cell_of(network), 1)

    def counted(self, kind: int, network: str, minute: int) -> int:
        """What the other workers have counted in this minute."""
        cells, at = self._cells, _HEAD + kind * CELLS + self._cell_of(network)
        regions = [number * _REGION for number in self._others]
        return sum(cells[r + at] for r in regions if cells[r + _MINUTE] == minute & 0xFFFFFFFF)

    # -- cells -----------------------------------------------------------------------------------

    def _find(self, network: str) -> int:
        """Where a network is counted: nobody outside can choose whom it meets there."""
        digest = hashlib.blake2b(network.encode("utf-8", "replace"), digest_size=4, key=self._seed).digest()
        return int.from_bytes(digest, "big") % CELLS

    def _add(self, cell: int, change: int) -> None:
        self._cells[cell] = max(0, self._cells[cell] + change)

    def _clear(self, begin: int, cells: int) -> None:
        assert self._map is not None
        at = _FIRST + begin * _NUMBER
        self._map[at : at + cells * _NUMBER] = bytes(cells * _NUMBER)
