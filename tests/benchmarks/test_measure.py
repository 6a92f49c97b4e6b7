"""Processor time and memory of a family of processes, its dead included."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from benchmarks.local_delivery import Round, summarize
from benchmarks.measure import Cost, Meter, cpu_seconds, memory, tree

BUSY = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\n"
PARENT = f"""
import subprocess, sys
holds = "import sys; held = bytes(range(256)) * 131072; print(1, flush=True); sys.stdin.read()"
child = subprocess.Popen([sys.executable, "-c", holds], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
subprocess.run([sys.executable, "-c", {BUSY!r}])
print(child.pid, flush=True)
sys.stdin.read()
child.stdin.close()
child.wait()
"""


@pytest.fixture
def family() -> Iterator[tuple[int, int]]:
    """A parent whose first child holds 32 MiB and whose second has worked 0.3 s and ended."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdin is not None
    yield process.pid, int(process.stdout.readline())
    process.stdin.close()
    process.wait()
    process.stdout.close()


def test_a_family_counts_its_living_and_its_dead(family: tuple[int, int]) -> None:
    parent, child = family
    assert tree(parent).keys() == {parent, child}
    assert cpu_seconds(parent) >= 0.3
    assert memory(parent) > 32 * 2**20
    assert memory(parent) > memory(child) > 32 * 2**20


def test_a_meter_counts_from_its_beginning(family: tuple[int, int]) -> None:
    with Meter(family[0]) as meter:
        pass
    assert meter.cost.cpu < 0.3
    assert meter.cost.memory > 32 * 2**20


def test_a_process_that_has_gone_costs_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert tree(process.pid) == {}
    assert os.getpid() in tree(os.getpid())


def test_the_ratio_is_of_medians(capsys: pytest.CaptureFixture[str]) -> None:
    cost = Cost(1.0, 2**20)

    def rounds(*seconds: float) -> list[Round]:
        return [Round(s, 100, cost) for s in seconds]

    rates = summarize({"first": rounds(1.0, 2.0, 4.0), "second": rounds(0.5, 1.0, 0.1)})
    assert rates == {"first": 50.0, "second": 200.0}
    assert "ratio    second / first: 4.00" in capsys.readouterr().out
