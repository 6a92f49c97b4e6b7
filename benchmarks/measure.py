"""What a server costs: processor time and memory of a process and all its descendants, from /proc."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

TICKS = os.sysconf("SC_CLK_TCK")
SAMPLE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Cost:
    """``cpu`` in seconds, user and system; ``memory`` the highest sample, in octets."""

    cpu: float
    memory: int


@dataclass(frozen=True, slots=True)
class _Process:
    parent: int
    ticks: int


def _read(pid: int) -> _Process | None:
    """One line of /proc/PID/stat (proc(5)); the name in parentheses may hold spaces."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    # utime, stime and, for children that ended and were waited for, cutime and cstime.
    return _Process(parent=int(fields[1]), ticks=sum(int(n) for n in fields[11:15]))


def tree(root: int) -> dict[int, int]:
    """The processes of ``root``'s family that live now: pid -> clock ticks used."""
    everyone = {int(name): _read(int(name)) for name in os.listdir("/proc") if name.isdigit()}
    family: dict[int, int] = {}
    generation = {root}
    while generation:
        family |= {pid: process.ticks for pid in generation if (process := everyone.get(pid))}
        generation = {
            pid for pid, process in everyone.items() if process and process.parent in generation - {pid}
        }
    return family


def cpu_seconds(root: int) -> float:
    """User and system seconds of the family, those of its dead included."""
    return sum(tree(root).values()) / TICKS


def memory(root: int) -> int:
    """Octets in memory, a page that several processes share counted once (PSS)."""
    total = 0
    for pid in tree(root):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


class Meter:
    """Measures a family of processes from ``with`` to the end of its block; then see ``cost``."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._highest = 0
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self.cost = Cost(0.0, 0)

    def __enter__(self) -> Self:
        self._before = cpu_seconds(self._root)
        self._sampler.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._sampler.join()
        self._highest = max(self._highest, memory(self._root))
        self.cost = Cost(cpu_seconds(self._root) - self._before, self._highest)

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self._highest = max(self._highest, memory(self._root))
