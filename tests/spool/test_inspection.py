"""The queue as an operator sees it, beside a server that runs and after it has stopped."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mailserver.durable import Disk
from mailserver.spool.inspection import QueueInspection
from mailserver.spool.schema import SpoolUnusable
from mailserver.spool.sqlite import SqliteSpool
from mailserver.values.address import Address
from mailserver.values.envelope import Entry, Envelope, Recipient
from tests.spool.letters import WAIT, delayed, delivered, due, envelope, octets_of, spooled


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def spool(folder: Path) -> Iterator[SqliteSpool]:
    spool = SqliteSpool(folder, Disk())
    spool.start()
    yield spool
    spool.stop()


@pytest.fixture(params=["running", "stopped"])
def queue(request: pytest.FixtureRequest, folder: Path) -> Iterator[tuple[QueueInspection, list[Entry]]]:
    """Three messages: one delayed, one leased, one large, delayed and to another domain."""
    spool = SqliteSpool(folder, Disk())
    spool.start()
    entries = [spooled(spool), spooled(spool), spooled(spool, b"L" * 300_000, envelope(2, "Пошта.укр"))]
    spool.record(entries[0], [delayed(entries[0].waiting[0], 5e9, "no route")]).result(WAIT)
    spool.record(entries[2], [delayed(w, 6e9) for w in entries[2].waiting]).result(WAIT)
    if request.param == "stopped":
        spool.stop()
    with QueueInspection(folder) as inspection:
        assert inspection.server_runs == (request.param == "running")
        yield inspection, entries
    spool.stop()


Queue = tuple[QueueInspection, list[Entry]]


def next_attempts(queue: QueueInspection) -> list[list[float | None]]:
    return [[one.next_attempt for one in entry.recipients] for entry in queue.entries()]


def test_no_spool_is_an_empty_queue(folder: Path) -> None:
    with QueueInspection(folder) as queue:
        assert list(queue.entries()) == []
        assert queue.entry(1) is None
        assert (queue.retry_all(), queue.remove(1), queue.server_runs) == (0, False, False)


def test_list(queue: Queue) -> None:
    inspection, entries = queue
    listed = list(inspection.entries())
    assert [(e.id, e.queue_id, e.arrived, e.size) for e in listed] == [
        (e.id, e.queue_id, e.arrived, e.content.size) for e in entries
    ]
    assert next_attempts(inspection) == [[5e9], [None], [6e9, 6e9]]
    assert [e.envelope for e in listed] == [e.envelope for e in entries]
    assert [e.recipient_count for e in listed] == [1, 1, 2]
    first = listed[0].recipients[0].waiting
    assert (first.attempts, first.reason) == (1, "no route")


def test_show(queue: Queue) -> None:
    inspection, entries = queue
    for entry in entries:
        shown = inspection.entry(entry.id)
        assert shown is not None
        assert b"".join(shown.content.chunks()) == octets_of_file(entry)
    assert inspection.entry(12345) is None


def octets_of_file(entry: Entry) -> bytes:
    return b"L" * 300_000 if entry.content.size == 300_000 else b"Subject: x\r\n\r\nhello\r\n"


def test_retry_one(queue: Queue) -> None:
    inspection, entries = queue
    assert inspection.retry_entry(entries[2].id) == 2
    assert inspection.retry_entry(entries[1].id) == 0  # it is leased
    assert inspection.retry_entry(12345) == 0
    assert next_attempts(inspection) == [[5e9], [None], [0, 0]]


def test_retry_a_recipient(queue: Queue) -> None:
    inspection, _ = queue
    assert inspection.retry_recipient(Address("user1", "xn--80a1acn3a.xn--j1amh")) == 1
    assert inspection.retry_recipient(Address("user0", "B.Test")) == 1
    assert inspection.retry_recipient(Address("nobody", "b.test")) == 0
    assert next_attempts(inspection) == [[0], [None], [6e9, 0]]


def test_retry_a_domain(queue: Queue) -> None:
    inspection, _ = queue
    assert inspection.retry_domain("пошта.УКР") == 2
    assert inspection.retry_domain("elsewhere.test") == 0
    assert next_attempts(inspection) == [[5e9], [None], [0, 0]]


def test_retry_all(queue: Queue) -> None:
    inspection, _ = queue
    assert inspection.retry_all() == 3
    assert next_attempts(inspection) == [[0], [None], [0, 0]]


def test_remove(queue: Queue, folder: Path) -> None:
    inspection, entries = queue
    for left in (2, 1, 0):
        assert inspection.remove(entries[left].id)
        assert len(list(inspection.entries())) == left
    assert not inspection.remove(entries[0].id)
    assert list((folder / "bodies-0").iterdir()) == []


def test_the_server_sees_what_was_changed(spool: SqliteSpool, folder: Path) -> None:
    one, two = spooled(spool), spooled(spool)
    for entry in (one, two):
        spool.record(entry, [delayed(entry.waiting[0], 5e9)]).result(WAIT)
    with QueueInspection(folder) as queue:
        queue.retry_entry(one.id)
        queue.remove(two.id)
    assert [e.id for e in due(spool, now=1e9)] == [one.id]
    assert spool.next_due().result(WAIT) is None


def test_removed_while_it_is_delivered(spool: SqliteSpool, folder: Path) -> None:
    entry = spooled(spool, b"x" * 300_000, envelope(2))
    with QueueInspection(folder) as queue:
        assert queue.remove(entry.id)
    outcomes = [delivered(entry.waiting[0]), delayed(entry.waiting[1], 1.0)]
    assert spool.record(entry, outcomes).result(WAIT) == []
    spool.give_back(entry).result(WAIT)
    assert len(due(spool)) == 0
    with pytest.raises(OSError, match="No such file"):
        octets_of(entry)


def test_recipients_are_found_by_the_address_before_the_alias(spool: SqliteSpool, folder: Path) -> None:
    final, original = Address("ada", "b.test"), Address("sales", "a.test")
    what = Envelope(Address("x", "y.test"), (Recipient(0, final, original),))
    entry = spooled(spool, what=what)
    spool.record(entry, [delayed(entry.waiting[0], 5e9)]).result(WAIT)
    with QueueInspection(folder) as queue:
        assert queue.retry_recipient(Address("sales", "A.test")) == 1


def test_a_long_list_comes_in_pages(spool: SqliteSpool, folder: Path) -> None:
    ids = [future.result(WAIT).id for future in [spool.begin().commit(envelope()) for _ in range(250)]]
    many = spooled(spool, what=envelope(1500))
    with QueueInspection(folder) as queue:
        *listed, last = queue.entries()
    assert [entry.id for entry in listed] == ids
    assert (last.id, len(last.recipients), last.recipient_count) == (many.id, 1000, 1500)


def test_what_is_set_aside_is_shown_and_can_be_tried_again(folder: Path) -> None:
    spool = SqliteSpool(folder, Disk())
    spool.start()
    entry = spooled(spool)
    spool.stop()
    database = folder / "spool-0.sqlite"
    with sqlite3.connect(database) as db:
        db.execute("UPDATE recipient SET local = CAST(x'61ff' AS TEXT)")
    spool.start()
    assert len(due(spool)) == 0
    with QueueInspection(folder) as queue:
        (shown,) = queue.entries()
        assert "set aside" in shown.hold
        assert shown.recipients[0].held
        assert (queue.retry_all(), queue.retry_domain("b.test")) == (0, 0)
        with sqlite3.connect(database) as db:
            db.execute("UPDATE recipient SET local = 'a'")
        assert queue.retry_entry(entry.id) == 1
        assert [e.hold for e in queue.entries()] == [""]
    assert [e.id for e in due(spool)] == [entry.id]
    spool.stop()


def test_a_spool_of_a_newer_version_is_refused(folder: Path) -> None:
    spool = SqliteSpool(folder, Disk())
    spool.start()
    spool.stop()
    with sqlite3.connect(folder / "spool-0.sqlite") as db:
        db.execute("PRAGMA user_version = 9")
    with pytest.raises(SpoolUnusable, match="schema version 9"):
        QueueInspection(folder)


def test_a_hold_and_a_release_time_are_shown_and_a_retry_ends_both(folder: Path, spool: SqliteSpool) -> None:
    held = spooled(spool, what=replace(envelope(), hold="over its limit", release_at=8e9))
    waits = spooled(spool, what=replace(envelope(), release_at=7e9))
    with QueueInspection(folder) as queue:
        shown = [(e.hold, e.envelope.hold, e.envelope.release_at) for e in queue.entries()]
        assert shown == [("over its limit", "over its limit", 8e9), ("", "", 7e9)]
        assert [[r.held for r in e.recipients] for e in queue.entries()] == [[True], [False]]
        assert next_attempts(queue)[1] == [7e9]
        assert queue.retry_all() == 1  # a hold is not ended by the way
        assert [e.id for e in due(spool)] == [waits.id]
        assert queue.retry_entry(held.id) == 1
        (released,) = due(spool)
        assert (released.id, released.envelope.hold) == (held.id, "")
