"""kill -9 between any two steps of taking a message from the drop folder: it is taken once, and whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock

from mailserver.deliver.drop import FOLDER, make_folder, put
from mailserver.deliver.pickup import Pickup, PickupPlace
from mailserver.durable import Disk
from mailserver.interfaces import ISpoolWriter
from mailserver.spool.sqlite import SqliteSpool
from tests.deliver.test_pickup import ADA, AtOnce, Directory

STEPS = ("before", "renamed", "written", "committed", "removed", "set out")


def take_all(folder: Path, last: str = "") -> list[tuple[str, bytes]]:
    """Start as the server does, take what is there, and give what the spool holds; or die after ``last``."""

    def step(name: str) -> None:
        if name == last:
            os.kill(os.getpid(), signal.SIGKILL)

    class Steps(Pickup):
        def _rename(self, old: str, new: str) -> None:
            step("before")
            super()._rename(old, new)
            step("renamed")

        def _remove(self, name: str) -> None:
            step("committed")
            super()._remove(name)
            step("removed")

    spool = SqliteSpool(folder / "spool", Disk())
    spool.start()
    begin = spool.begin

    def begun() -> ISpoolWriter:
        writer = begin()
        commit = writer.commit

        def committing(envelope: Any) -> Any:
            step("written")
            return commit(envelope)

        writer.commit = committing  # type: ignore[method-assign]
        return writer

    if last == "written":
        spool.begin = begun  # type: ignore[method-assign, assignment]
    at_once: Any = AtOnce()
    directory: Any = Directory()
    clock = Clock()
    place = PickupPlace(
        folder / FOLDER, "mx.a.test", 10_000, spool, directory, lambda entry: step("set out"), lambda: 0.0
    )
    pickup = Steps(place, Disk(), at_once, at_once, clock)
    pickup.open()
    pickup.start()
    clock.advance(1)
    pickup.stop()
    spool.stop()
    again = SqliteSpool(folder / "spool", Disk())  # what was leased is due after a start
    again.start()
    due = again.due(1e12, 100).result(10)
    found = [(str(e.waiting[0].recipient.address), b"".join(e.content.chunks())) for e in due]
    again.stop()
    return found


@pytest.mark.parametrize("last", STEPS)
def test_killed_it_is_taken_once(tmp_path: Path, last: str) -> None:
    make_folder(tmp_path / FOLDER)
    put(tmp_path / FOLDER, ADA, [ADA], b"Subject: once\n\nhello\n")
    script = (
        "import sys; from pathlib import Path; from tests.deliver.test_pickup_killed import take_all;"
        "take_all(Path(sys.argv[1]), sys.argv[2])"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), last],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    # What had been committed is due at once after a start; what had not is in the folder still.
    found = take_all(tmp_path)
    assert [address for address, _ in found] == ["ada@a.test"]
    assert found[0][1].endswith(b"Subject: once\r\n\r\nhello\r\n")
    assert os.listdir(tmp_path / FOLDER) == []
