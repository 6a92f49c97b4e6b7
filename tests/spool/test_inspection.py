"""The queue as an operator sees it, beside a server that runs and after it has stopped."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mailserver.durable import Disk
from mailserver.spool import orders
from mailserver.spool.inspection import QueueInspection
from mailserver.spool.schema import NEVER, SpoolUnusable
from mailserver.spool.selection import Selection
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


def retried(queue: QueueInspection, *numbers: int, recipient: Address | None = None) -> int:
    return queue.change(orders.retry, Selection(numbers, recipient=recipient)).recipients


def removed(queue: QueueInspection, *numbers: int) -> bool:
    return bool(queue.change(orders.remove, Selection(numbers)).messages)


def next_attempts(queue: QueueInspection) -> list[list[float | None]]:
    return [[one.next_attempt for one in entry.recipients] for entry in queue.entries()]


def test_no_spool_is_an_empty_queue(folder: Path) -> None:
    with QueueInspection(folder) as queue:
        assert list(queue.entries()) == []
        assert queue.entry(1) is None
        assert (retried(queue), removed(queue, 1), queue.server_runs) == (0, False, False)


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
    assert retried(inspection, entries[2].id) == 2
    assert retried(inspection, entries[1].id) == 0  # it is leased
    assert retried(inspection, 12345) == 0
    assert next_attempts(inspection) == [[5e9], [None], [0, 0]]


def test_retry_a_recipient(queue: Queue) -> None:
    inspection, _ = queue
    assert retried(inspection, recipient=Address("user1", "xn--80a1acn3a.xn--j1amh")) == 1
    assert retried(inspection, recipient=Address("user0", "B.Test")) == 1
    assert retried(inspection, recipient=Address("nobody", "b.test")) == 0
    assert next_attempts(inspection) == [[0], [None], [6e9, 0]]


def test_retry_a_domain(queue: Queue) -> None:
    inspection, _ = queue
    assert retried(inspection, recipient=Address("", "пошта.УКР")) == 2
    assert retried(inspection, recipient=Address("", "elsewhere.test")) == 0
    assert next_attempts(inspection) == [[5e9], [None], [0, 0]]


def test_retry_all(queue: Queue) -> None:
    inspection, _ = queue
    assert retried(inspection) == 3
    assert next_attempts(inspection) == [[0], [None], [0, 0]]


def test_retry_sends_nothing_early_that_is_to_leave_later_unless_it_is_named(folder: Path) -> None:
    spool = SqliteSpool(folder, Disk())
    spool.start()
    later = replace(envelope(), release_at=9e9)
    writer = spool.begin()
    writer.write(b"x")
    entry = writer.commit(later).result(WAIT)
    with QueueInspection(folder) as inspection:
        assert retried(inspection) == 0
        assert retried(inspection, recipient=Address("", "b.test")) == 0
        assert next_attempts(inspection) == [[9e9]]
        assert retried(inspection, entry.id) == 1
        assert next_attempts(inspection) == [[0]]
    spool.stop()


def test_remove(queue: Queue, folder: Path) -> None:
    inspection, entries = queue
    for left in (2, 1, 0):
        assert removed(inspection, entries[left].id)
        assert len(list(inspection.entries())) == left
    assert not removed(inspection, entries[0].id)
    assert list((folder / "bodies-0").iterdir()) == []


def test_the_server_sees_what_was_changed(spool: SqliteSpool, folder: Path) -> None:
    one, two = spooled(spool), spooled(spool)
    for entry in (one, two):
        spool.record(entry, [delayed(entry.waiting[0], 5e9)]).result(WAIT)
    with QueueInspection(folder) as queue:
        retried(queue, one.id)
        removed(queue, two.id)
    assert [e.id for e in due(spool, now=1e9)] == [one.id]
    assert spool.next_due().result(WAIT) is None


def test_removed_while_it_is_delivered(spool: SqliteSpool, folder: Path) -> None:
    entry = spooled(spool, b"x" * 300_000, envelope(2))
    with QueueInspection(folder) as queue:
        assert removed(queue, entry.id)
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
        assert retried(queue, recipient=Address("sales", "A.test")) == 1


def test_a_long_list_comes_in_pages(spool: SqliteSpool, folder: Path) -> None:
    ids = [future.result(WAIT).id for future in [spool.begin().commit(envelope()) for _ in range(250)]]
    many = spooled(spool, what=envelope(1500))
    with QueueInspection(folder) as queue:
        *listed, last = queue.entries()
    assert [entry.id for entry in listed] == ids
    assert (last.id, len(last.recipients), last.recipient_count) == (many.id, 1000, 1500)


def test_messages_of_all_workers_are_told_oldest_first(folder: Path) -> None:
    spools = [SqliteSpool(folder, Disk(), worker) for worker in (0, 1)]
    for spool in spools:
        spool.start()
    entries = [spooled(spools[turn % 2]) for turn in range(6)]
    for spool in spools:
        spool.stop()
    with QueueInspection(folder) as inspection:
        assert [one.id for one in inspection.entries()] == [entry.id for entry in entries]


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
        assert (retried(queue), retried(queue, recipient=Address("", "b.test"))) == (0, 0)
        with sqlite3.connect(database) as db:
            db.execute("UPDATE recipient SET local = 'a'")
        assert retried(queue, entry.id) == 1
        assert [e.hold for e in queue.entries()] == [""]
    assert [e.id for e in due(spool)] == [entry.id]
    spool.stop()


def test_a_spool_whose_tables_are_being_made_is_empty(folder: Path) -> None:
    folder.mkdir()
    (folder / "spool-1.sqlite").touch()
    with QueueInspection(folder) as queue:
        assert list(queue.entries()) == []
        assert queue.change(orders.retry, Selection()).recipients == 0


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
        assert retried(queue) == 0  # neither a hold nor a time that was asked for is ended by the way
        assert retried(queue, waits.id) == 1
        assert [e.id for e in due(spool)] == [waits.id]
        assert retried(queue, held.id) == 1
        (released,) = due(spool)
        assert (released.id, released.envelope.hold) == (held.id, "")


# -- orders for some of a message's recipients -------------------------------------------------------


@pytest.fixture
def mixed(spool: SqliteSpool, folder: Path) -> Iterator[tuple[SqliteSpool, QueueInspection, int]]:
    """One message to ``a@b.test`` and ``a@c.test``, both delayed."""
    whom = (Address("a", "b.test"), Address("a", "c.test"))
    what = Envelope(Address("x", "y.test"), tuple(Recipient(n, one, one) for n, one in enumerate(whom)))
    entry = spooled(spool, what=what)
    spool.record(entry, [delayed(w, 5e9) for w in entry.waiting]).result(WAIT)
    with QueueInspection(folder) as queue:
        yield spool, queue, entry.id


B = Selection(recipient=Address("", "B.test"))


def test_a_hold_of_one_recipient(mixed: tuple[SqliteSpool, QueueInspection, int]) -> None:
    spool, queue, number = mixed
    changed = queue.change(orders.hold("they asked"), B)
    assert (changed.messages, changed.recipients) == (frozenset({number}), 1)
    (entry,) = queue.entries()
    assert (entry.hold, [(r.held, r.waiting.hold) for r in entry.recipients]) == (
        "",
        [(True, "they asked"), (False, "")],
    )
    assert next_attempts(queue) == [[NEVER, 5e9]]
    assert queue.change(orders.retry, Selection()).recipients == 1  # the one that is not held
    (leased,) = due(spool)
    assert [w.recipient.address.domain for w in leased.waiting] == ["c.test"]
    assert queue.change(orders.release, Selection(recipient=Address("", "c.test"))).recipients == 0
    assert queue.change(orders.release, B).recipients == 1
    (leased,) = due(spool)
    assert [(w.recipient.address.domain, w.hold) for w in leased.waiting] == [("b.test", "")]


def test_a_hold_of_one_recipient_ends_by_itself(mixed: tuple[SqliteSpool, QueueInspection, int]) -> None:
    spool, queue, _ = mixed
    queue.change(orders.hold("a while", 4e9), B)
    assert due(spool, now=3.9e9) == ()
    (leased,) = due(spool, now=4.1e9)
    assert [w.recipient.address.domain for w in leased.waiting] == ["b.test"]
    spool.record(leased, [delayed(leased.waiting[0], 6e9)]).result(WAIT)
    assert [r.waiting.hold for e in queue.entries() for r in e.recipients] == ["", ""]


def test_one_recipient_is_released_from_a_message_that_is_held(
    mixed: tuple[SqliteSpool, QueueInspection, int],
) -> None:
    spool, queue, number = mixed
    queue.change(orders.hold("all of it"), Selection((number,)))
    assert queue.change(orders.release, B).recipients == 1
    assert [e.hold for e in queue.entries()] == ["all of it"]
    assert len(due(spool)) == 1
    assert [e.hold for e in queue.entries()] == ["all of it"]  # the other one is held still
    assert queue.change(orders.release, Selection()).recipients == 1
    assert [e.hold for e in queue.entries()] == [""]


def test_one_recipient_is_returned_and_another_rerouted(
    mixed: tuple[SqliteSpool, QueueInspection, int],
) -> None:
    spool, queue, _ = mixed
    assert queue.change(orders.bounce("no more"), B).recipients == 1
    assert queue.change(orders.reroute("smtp://h:25"), Selection(recipient=Address("a", "c.test"))).recipients
    (leased,) = due(spool)
    assert [(w.bounce, w.route) for w in leased.waiting] == [("no more", ""), ("", "smtp://h:25")]
    assert (leased.envelope.bounce, leased.envelope.route) == ("", "")
    spool.record(leased, [delayed(w, 5e9) for w in leased.waiting]).result(WAIT)
    assert [r.waiting.route for e in queue.entries() for r in e.recipients] == ["", "smtp://h:25"]


def test_one_recipient_is_removed_then_the_other(mixed: tuple[SqliteSpool, QueueInspection, int]) -> None:
    _, queue, number = mixed
    assert queue.change(orders.remove, B).recipients == 1
    assert next_attempts(queue) == [[5e9]]
    assert queue.change(orders.remove, Selection(recipient=Address("", "c.test"))).messages == {number}
    assert list(queue.entries()) == []


def test_a_retry_counts_no_attempt(mixed: tuple[SqliteSpool, QueueInspection, int]) -> None:
    spool, queue, _ = mixed
    for _ in range(3):
        queue.change(orders.retry, Selection())
    (leased,) = due(spool)
    assert [w.attempts for w in leased.waiting] == [1, 1]


def test_what_waits_for_a_domain_and_why(mixed: tuple[SqliteSpool, QueueInspection, int]) -> None:
    _, queue, _ = mixed
    ((count, reason),) = queue.reasons("B.TEST")
    assert (count, bool(reason)) == (1, True)
    assert queue.reasons("elsewhere.test") == []


def test_a_spool_of_the_version_before_gets_the_new_column(folder: Path) -> None:
    spool = SqliteSpool(folder, Disk())
    spool.start()
    entry = spooled(spool)
    spool.record(entry, [delayed(entry.waiting[0], 5e9)]).result(WAIT)
    spool.stop()
    with sqlite3.connect(folder / "spool-0.sqlite") as db:
        db.execute("ALTER TABLE recipient DROP COLUMN orders")
    with QueueInspection(folder) as queue:  # a command may be the first to look
        assert queue.change(orders.hold("wait"), Selection(recipient=Address("", "b.test"))).recipients == 1
        assert [r.waiting.hold for e in queue.entries() for r in e.recipients] == ["wait"]
    with sqlite3.connect(folder / "spool-0.sqlite") as db:
        db.execute("ALTER TABLE recipient DROP COLUMN orders")
    spool.start()
    assert due(spool, now=2e15) != ()
    spool.stop()
