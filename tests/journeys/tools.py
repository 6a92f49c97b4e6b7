"""Finding what a journey drives: a missing Debian tool skips it, or fails it where CI says so."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

REQUIRED = os.environ.get("MAILSERVER_JOURNEYS") == "required"
EXIM = Path(os.environ.get("MAILSERVER_EXIM", "/usr/sbin/exim4"))
"""Debian installs either Exim or Postfix; ``.ci/run`` unpacks the one that is not installed."""
PATIENCE = 30.0
"""Seconds that a journey waits for anything before it gives up; never a measure of speed."""


def lacking(reason: str) -> None:
    """Skip the test; fail it where ``MAILSERVER_JOURNEYS=required`` says that nothing may be missing."""
    if REQUIRED:
        pytest.fail(reason)
    pytest.skip(reason)


def tool(name: str, package: str = "") -> str:
    """The path of a program of Debian's, also of root's."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        lacking(f"{name} is not installed; `apt-get install {package or name}` brings it")
    return str(path)


def ours(name: str) -> str:
    """A command that pip installed beside this interpreter: ``twistd``, ``mailserver``."""
    return str(Path(sys.executable).parent / name)


def run(command: Sequence[str], **options: object) -> subprocess.CompletedProcess[str]:
    """Run to the end with everything captured as text; bounded by a generous time limit."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)  # type: ignore[call-overload, no-any-return]


def _ports() -> Iterator[int]:
    """Below those that the kernel gives to clients, so that no connection takes one that a test has been
    told; others for each process of a parallel run, and at each start."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
    first, count = 12_000 + 2_500 * worker, 2_500
    start = os.getpid() * 97 % count
    while True:
        yield first + start
        start = (start + 1) % count


_PORTS = _ports()


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port of ``host`` that nobody listened on a moment ago."""
    for port in _PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port
    raise AssertionError("ports never end")


def eventually(true: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Wait until ``true()``; fail with ``what`` was awaited when it does not come."""
    end = time.monotonic() + patience
    while not true():
        if time.monotonic() > end:
            pytest.fail(f"waited {patience:.0f} s in vain: {what}")
        time.sleep(0.05)
