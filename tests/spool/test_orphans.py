"""Which spools are left over when there are fewer workers than there were."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailserver.durable import Disk
from mailserver.spool.orphans import orphans
from mailserver.spool.schema import SpoolUnusable, spool_path
from mailserver.spool.sqlite import SqliteSpool
from tests.spool.letters import WAIT, delayed, delivered, spooled


def make_spool(folder: Path, worker: int, messages: int) -> None:
    """A spool at rest: all its messages wait for another attempt."""
    spool = SqliteSpool(folder, Disk(), worker)
    spool.start()
    for _ in range(messages):
        entry = spooled(spool)
        spool.record(entry, [delayed(entry.waiting[0], 5e9)]).result(WAIT)
    gone = spooled(spool)
    spool.record(gone, [delivered(gone.waiting[0])]).result(WAIT)
    spool.stop()


def test_they_are_those_beyond_the_workers_that_hold_mail(tmp_path: Path) -> None:
    for worker, messages in enumerate([1, 1, 0, 2]):
        make_spool(tmp_path, worker, messages)
    assert orphans(tmp_path, 4) == []
    assert orphans(tmp_path, 2) == [3]
    assert orphans(tmp_path, 1) == [1, 3]


def test_there_are_none_where_nobody_has_served_yet(tmp_path: Path) -> None:
    assert orphans(tmp_path / "spool", 1) == []


def test_one_that_a_crash_left_without_tables_holds_no_mail(tmp_path: Path) -> None:
    spool_path(tmp_path, 1).touch()
    assert orphans(tmp_path, 1) == []


def test_one_that_cannot_be_read_is_told_and_not_passed_over(tmp_path: Path) -> None:
    spool_path(tmp_path, 1).write_bytes(b"this is not a database, whatever its name says" * 50)
    with pytest.raises(SpoolUnusable, match=r"spool-1\.sqlite"):
        orphans(tmp_path, 1)
