"""Memory that the machine has been given before a clock starts.

A virtual machine gets its memory from the host when it is first touched. On one machine that took 4 to 7
microseconds for 4 KiB, more than writing them to a file; who wrote fastest paid most, and half of the rounds
with large messages took twice the processor time of the others.
"""

from __future__ import annotations

import mmap
import time
from pathlib import Path

_PIECE = 2**30
_SHARE = 0.85
"""Of what is available; the rest is for whatever else the machine does."""


def touch_all() -> str:
    """Touch nearly all memory that is available, give it back, and tell what that took."""
    octets = int(min(_available(), _limit()) * _SHARE)
    began = time.monotonic()
    pieces: list[mmap.mmap] = []
    for _ in range(octets // _PIECE):
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE
        pieces.append(mmap.mmap(-1, _PIECE, flags=flags))
    seconds = time.monotonic() - began
    pages = len(pieces) * _PIECE // mmap.PAGESIZE
    for piece in pieces:
        piece.close()
    return f"{len(pieces)} GiB of memory touched, {seconds / max(pages, 1) * 1e6:.1f} us a page"


def _available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _limit() -> float:
    """What a container may have, if this is one with a limit."""
    try:
        return float(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):
        return float("inf")
