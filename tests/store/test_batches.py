"""Deliveries in the reactor's turns: who makes the files, what shares a sync, what is left to the thread."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from mailserver.durable import Disk, DurableFile, StrPath
from mailserver.group_commit import GroupCommit
from mailserver.interfaces import Delivery, MailboxUnavailable
from mailserver.store.batches import AVOID_SECONDS, BATCH, SLOW_SECONDS, MaildirBatches
from mailserver.store.maildir_files import MaildirWriter
from mailserver.store.quota import MailboxQuota
from mailserver.values.content import MemoryContent
from tests.store.deliveries import SOON, delivery_of
from tests.turns import Turns

LARGE = MemoryContent(b"x" * (256 * 1024 + 1))


class Watched(Disk):
    """Tells which thread made each file, and how many syncs there were; a sync waits for ``may_sync``."""

    def __init__(self) -> None:
        super().__init__()
        self.made_by: list[int] = []
        self.syncs = 0
        self.syncing = threading.Event()
        self.may_sync = threading.Event()
        self.may_sync.set()
        self.far = False
        self.fault: OSError | None = None

    def write(self, path: StrPath, pieces: Sequence[bytes]) -> None:
        self.made_by.append(threading.get_ident())
        super().write(path, pieces)

    def create(self, path: StrPath) -> DurableFile:
        self.made_by.append(threading.get_ident())
        return super().create(path)

    def sync_filesystem(self, folder: StrPath) -> bool:
        self.syncs += 1
        self.syncing.set()
        assert self.may_sync.wait(SOON)
        if self.fault is not None:
            raise self.fault
        return super().sync_filesystem(folder)

    def is_far(self, folder: StrPath) -> bool:
        return self.far


class Place:
    """Batches over a true folder, and the hands that a test needs on them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mailbox = str(path)
        self.turns = Turns()
        self.disk = Watched()
        self.time = 1000.0
        self.writer = MaildirWriter(self.disk, "mx.example.test")
        self.group = GroupCommit(self.turns, self.now)
        self.batches = MaildirBatches(self.disk, self.writer, self.group, self.now)
        self.batches.start()

    def now(self) -> float:
        self.time += 1e-6
        return self.time

    def deliver(self, number: int, delivery: Delivery | None = None) -> Future[None]:
        return self.batches.deliver(self.mailbox, delivery or delivery_of(number))

    def make_known(self) -> None:
        """A first delivery: folders are made by the thread."""
        self.turns.until(self.deliver(0))
        self.disk.made_by.clear()
        self.disk.syncing.clear()
        self.disk.syncs = 0

    @property
    def files(self) -> int:
        return len(list((self.path / "new").iterdir()))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path / "ada")
    yield made
    made.disk.may_sync.set()
    made.batches.stop()
    made.disk.close()


HERE = threading.get_ident()


def test_while_another_transaction_is_under_way_a_delivery_waits_for_its_message(place: Place) -> None:
    place.make_known()
    place.group.began("another")
    first = place.deliver(1)
    place.turns.end()
    assert place.files == 1
    place.group.ended("another")
    second = place.deliver(2)
    place.turns.until(first, second)
    assert (place.files, place.disk.syncs) == (3, 1)


def test_a_whole_batch_waits_for_nobody(place: Place) -> None:
    place.make_known()
    place.group.began("another")
    futures = [place.deliver(number) for number in range(1, 2 * BATCH + 2)]
    place.turns.until(*futures[: 2 * BATCH])
    assert (place.files, place.disk.syncs) == (2 * BATCH + 1, 2)
    place.turns.end()
    assert not futures[-1].done()
    place.turns.wait()
    place.turns.until(futures[-1])
    assert place.disk.syncs == 3


def test_after_a_whole_batch_that_cannot_be_placed_the_next_sets_out(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.make_known()
    begin = place.writer.place

    def fails_at_first(mailbox: str, delivery: Delivery) -> Any:
        if int(delivery.name[1:].partition(".")[0]) <= BATCH:
            raise OSError(errno.EIO, "no")
        return begin(mailbox, delivery)

    monkeypatch.setattr(place.writer, "place", fails_at_first)
    futures = [place.deliver(number) for number in range(1, BATCH + 3)]
    place.turns.until(*futures)
    assert [future.exception() is None for future in futures] == [False] * BATCH + [True] * 2


def test_what_one_turn_brings_is_made_here_and_shares_a_sync(place: Place) -> None:
    place.make_known()
    futures = [place.deliver(number) for number in range(1, 21)]
    assert place.files == 1
    place.turns.end()
    assert place.files == 21
    assert place.disk.made_by == [HERE] * 20
    assert not any(future.done() for future in futures)
    place.turns.until(*futures)
    assert [future.exception() for future in futures] == [None] * 20
    assert place.disk.syncs == 1


def test_nothing_is_made_while_a_sync_runs_and_all_of_it_when_it_has_ended(place: Place) -> None:
    place.make_known()
    place.disk.may_sync.clear()
    first = place.deliver(1)
    place.turns.end()
    assert place.disk.syncing.wait(SOON)
    others = [place.deliver(number) for number in range(2, 6)]
    place.turns.end()
    assert place.files == 2
    place.disk.may_sync.set()
    place.turns.until(first, *others)
    assert place.files == 6
    assert place.disk.made_by == [HERE] * 5
    assert place.disk.syncs == 2


def test_a_sync_that_began_before_a_file_was_there_is_not_taken_for_its_own(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.make_known()
    place.disk.may_sync.clear()
    notices: list[Future[None]] = []

    def write(path: StrPath, pieces: Sequence[bytes]) -> None:
        if not notices:  # a notice of the quota sets out from its thread in this moment
            notices.append(Future())
            notices[0] = place.batches.deliver_from_thread(place.mailbox, delivery_of(9))
            assert place.disk.syncing.wait(SOON)
        Watched.write(place.disk, path, pieces)

    monkeypatch.setattr(place.disk, "write", write)
    future = place.deliver(1)
    place.turns.end()
    assert place.files == 3
    place.disk.syncing.clear()
    place.disk.may_sync.set()
    place.turns.until(notices[0])
    place.turns.until(future)
    assert future.exception() is None
    assert place.disk.syncs == 2


def test_no_batch_is_larger_than_a_sync_may_be(place: Place) -> None:
    place.make_known()
    futures = [place.deliver(number) for number in range(1, 2 * BATCH)]
    place.turns.end()
    assert place.files == 1 + BATCH
    place.turns.until(*futures)
    assert place.files == 2 * BATCH
    assert place.disk.syncs == 2


def test_what_needs_patience_is_left_to_the_thread(place: Place) -> None:
    new = place.deliver(1)
    place.turns.until(new)  # its folders are not known
    repeated = place.deliver(2, delivery_of(2, repeated=True))
    place.turns.until(repeated)
    assert place.disk.made_by
    assert HERE not in place.disk.made_by
    place.disk.made_by.clear()
    place.turns.until(place.deliver(3, delivery_of(3, content=LARGE)))
    assert place.files == 3
    assert place.disk.made_by
    assert HERE not in place.disk.made_by


def test_a_quota_is_asked_in_the_thread(place: Place) -> None:
    place.make_known()
    asked: list[int] = []

    class Quota(MailboxQuota):
        def __init__(self) -> None:
            pass

        def admit(self, octets: int) -> None:
            asked.append(threading.get_ident())

        def add(self, octets: int, messages: int) -> None:
            pass

    future = place.batches.deliver(place.mailbox, delivery_of(1), Quota())
    place.turns.until(future)
    assert asked
    assert HERE not in [*asked, *place.disk.made_by]


def test_a_mailbox_behind_a_network_is_left_to_the_thread(place: Place) -> None:
    place.disk.far = True
    place.make_known()
    place.turns.until(place.deliver(1))
    assert place.disk.made_by
    assert HERE not in place.disk.made_by


def test_a_log_in_that_looks_at_the_file_system_first_costs_no_delivery(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, may_go_on = threading.Event(), threading.Event()

    def is_far(folder: StrPath) -> bool:
        if os.fspath(folder).endswith("bob"):
            looked.set()
            assert may_go_on.wait(SOON)
        return False

    monkeypatch.setattr(place.disk, "is_far", is_far)
    log_in = threading.Thread(target=place.writer.prepare, args=(f"{place.path}/bob",))
    log_in.start()
    assert looked.wait(SOON)
    place.make_known()
    future = place.deliver(1)
    place.turns.until(future)
    may_go_on.set()
    log_in.join()
    assert future.done()
    assert future.exception() is None


def test_a_file_system_that_could_not_be_looked_at_is_looked_at_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_far(folder: StrPath) -> bool:
        monkeypatch.undo()
        raise OSError(errno.EIO, "lost")

    monkeypatch.setattr(place.disk, "is_far", is_far)
    futures = [place.deliver(number) for number in range(3)]
    place.turns.until(futures[0])
    place.turns.until(*futures)
    later = place.deliver(3)
    place.turns.until(later)
    assert [isinstance(future.exception(0), OSError) for future in (*futures, later)] == [
        True,
        False,
        False,
        False,
    ]


def test_a_slow_disk_is_left_to_the_thread_for_a_while(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.make_known()

    def slowly(path: StrPath, pieces: Sequence[bytes]) -> None:
        place.time += SLOW_SECONDS + 0.01
        Watched.write(place.disk, path, pieces)

    monkeypatch.setattr(place.disk, "write", slowly)
    place.turns.until(place.deliver(1))
    monkeypatch.undo()
    place.turns.until(place.deliver(2))
    place.time += AVOID_SECONDS
    place.turns.until(place.deliver(3))
    assert [one == HERE for one in place.disk.made_by] == [True, False, True]


def test_one_that_cannot_be_placed_harms_no_other(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.make_known()

    def write(path: StrPath, pieces: Sequence[bytes]) -> None:
        if b"unlucky" in pieces[0]:
            raise OSError(errno.ENOSPC, "full")
        Watched.write(place.disk, path, pieces)

    monkeypatch.setattr(place.disk, "write", write)
    unlucky = place.deliver(1, delivery_of(1, content=MemoryContent(b"unlucky\r\n")))
    lucky = place.deliver(2)
    place.turns.until(unlucky, lucky)
    assert isinstance(unlucky.exception(), OSError)
    assert lucky.exception() is None
    alone = place.deliver(3, delivery_of(3, content=MemoryContent(b"unlucky\r\n")))
    place.turns.until(alone)
    assert isinstance(alone.exception(), OSError)
    place.turns.until(place.deliver(4))
    assert place.files == 3


def test_a_sync_that_fails_takes_all_of_its_batch_back(place: Place) -> None:
    place.make_known()
    place.disk.fault = OSError(errno.EIO, "lost")
    futures = [place.deliver(number) for number in (1, 2)]
    place.turns.until(*futures)
    assert [type(future.exception()) for future in futures] == [OSError, OSError]
    assert place.files == 1


def test_at_the_end_all_that_was_accepted_is_done(place: Place) -> None:
    place.make_known()
    place.disk.may_sync.clear()
    under_way = place.deliver(1)
    place.turns.end()
    assert place.disk.syncing.wait(SOON)
    gathered = place.deliver(2)  # the sync that it waits for ends when the server does
    threading.Timer(0.05, place.disk.may_sync.set).start()
    place.batches.stop()
    assert under_way.done()
    assert gathered.done()
    assert place.files == 3
    assert isinstance(place.deliver(3).exception(), MailboxUnavailable)
