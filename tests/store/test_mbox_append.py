"""Many messages for one mbox: one sync, and what fails takes nothing else along."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from mailserver.durable import Disk, DurableFile, StrPath
from mailserver.interfaces import Delivery, MailboxFull
from mailserver.store import mbox_append, mbox_copies
from mailserver.store.locks import HeldMbox, MboxLocks
from mailserver.store.mbox_append import append_all
from mailserver.store.mbox_messages import messages_of
from mailserver.store.quota import DomainUsage, MailboxQuota, QuotaLimits
from mailserver.values.content import Content
from tests.store.deliveries import content_of, delivery_of

FULL = OSError(errno.ENOSPC, "no space left")


class CountingFile(DurableFile):
    """Counts syncs; the one that is to fail does."""

    def __init__(self, fd: int, disk: CountingDisk) -> None:
        super().__init__(fd)
        self._disk = disk

    def sync(self) -> None:
        self._disk.syncs += 1
        if self._disk.fails:
            raise OSError(errno.EIO, "input/output error")
        super().sync()


class CountingDisk(Disk):
    """A disk that counts what is synced of files that grow."""

    def __init__(self) -> None:
        super().__init__()
        self.syncs = 0
        self.fails = False

    def extend(self, path: StrPath) -> DurableFile:
        file = super().extend(path)
        fd, file.fd = file.fd, -1
        return CountingFile(fd, self)


@dataclass(frozen=True)
class Unreadable(Content):
    """The disk ends in the middle of it."""

    size: int = 6

    def chunks(self) -> Iterator[bytes]:
        yield b"torn\r\n"
        raise FULL


@pytest.fixture
def held(tmp_path: Path) -> Iterator[HeldMbox]:
    """A locked mbox with message 1."""
    path = tmp_path / "ada.mbox"
    path.touch()
    with MboxLocks(1.0).hold(str(path)) as one:
        assert append(Disk(), one, delivery_of(1)) == [None]
        yield one


def append(
    disk: Disk, held: HeldMbox, *deliveries: Delivery, quota: MailboxQuota | None = None
) -> list[Exception | None]:
    return append_all(disk, held, [(delivery, quota) for delivery in deliveries])[0]


def count(held: HeldMbox) -> int:
    return len(messages_of(held.fd, held.size))


def test_one_sync_for_all(held: HeldMbox) -> None:
    disk = CountingDisk()
    again = [delivery_of(number, repeated=True) for number in (1, 2)]
    assert append(disk, held, *again, *map(delivery_of, range(3, 40))) == [None] * 39
    assert disk.syncs == 1
    assert count(held) == 39


def test_a_sync_that_fails_takes_all_back_but_what_was_there(held: HeldMbox) -> None:
    disk = CountingDisk()
    before = held.size
    disk.fails = True
    errors = append(disk, held, delivery_of(2), delivery_of(3))
    assert [type(error) for error in errors] == [OSError, OSError]
    assert held.size == before
    disk.fails = False
    assert append(disk, held, delivery_of(2, repeated=True), delivery_of(3, repeated=True)) == [None, None]
    assert count(held) == 3


def test_a_message_that_cannot_be_written_leaves_the_others_alone(held: HeldMbox) -> None:
    errors = append(Disk(), held, delivery_of(2), delivery_of(3, Unreadable()), delivery_of(4))
    assert errors == [None, FULL, None]
    assert count(held) == 3
    assert b"torn" not in os.pread(held.fd, held.size, 0)


@pytest.mark.parametrize("body", [b"long\r\n" * 200, b"\r\n"], ids=["long", "short"])
@pytest.mark.parametrize("others", [b"long\r\n" * 200, b"\r\n"], ids=["among long ones", "among short ones"])
def test_recovered_messages_are_compared_with_hardly_any_other(
    held: HeldMbox, body: bytes, others: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a kill hundreds come again: a large mailbox is not gone through for each of them."""
    append(Disk(), held, *(delivery_of(n, content_of(n, others)) for n in range(1000, 1300)))
    again = [delivery_of(n, content_of(n, body), repeated=True) for n in range(2, 200)]
    compared = 0
    compare = mbox_copies._compare

    def counted(*arguments: Any) -> Any:
        nonlocal compared
        compared += 1
        return compare(*arguments)

    monkeypatch.setattr(mbox_copies, "_compare", counted)
    assert append(Disk(), held, *again) == [None] * 198
    assert compared < 10
    assert append(Disk(), held, *again) == [None] * 198
    assert compared < 220
    assert count(held) == 499


def test_many_torn_messages_are_one_rewrite(held: HeldMbox, monkeypatch: pytest.MonkeyPatch) -> None:
    before = held.size
    messages = [delivery_of(n, content_of(n, b"line\r\n" * 300)) for n in range(2, 40)]
    append(Disk(), held, *messages)
    with open(held.path, "r+b") as file:
        for at in range(before + 700, held.size, held.size // 45):
            file.seek(at)
            file.write(bytes(100))
    rewrites = 0
    rewrite = mbox_append.rewrite_without

    def counted(*arguments: Any) -> None:
        nonlocal rewrites
        rewrites += 1
        rewrite(*arguments)

    monkeypatch.setattr(mbox_append, "rewrite_without", counted)
    assert append(Disk(), held, *(replace(one, repeated=True) for one in messages)) == [None] * 38
    assert rewrites == 1
    assert count(held) == 39
    assert b"\0" not in os.pread(held.fd, held.size, 0)


def test_zeros_at_the_end_of_a_whole_message_are_its_own(held: HeldMbox) -> None:
    odd = delivery_of(2, content_of(2, b"Hello.\r\n\r\n\0\0\0\r\n"))
    append(Disk(), held, odd)
    before = os.pread(held.fd, held.size, 0)
    assert append(Disk(), held, replace(odd, repeated=True)) == [None]
    assert os.pread(held.fd, held.size, 0) == before


def test_after_a_failed_sync_what_was_there_is_written_anew(held: HeldMbox) -> None:
    """Linux forgets which pages it could not write: a second sync that succeeds proves nothing."""
    disk = CountingDisk()
    append(disk, held, delivery_of(2))
    at = os.pread(held.fd, held.size, 0).find(b"number 2")
    disk.fails = True
    again = [(delivery_of(number, repeated=True), None) for number in (2, 3)]
    assert not append_all(disk, held, again)[1]
    disk.fails = False
    append(disk, held, delivery_of(4))
    assert append_all(disk, held, again, is_trusted=False) == ([None, None], True)
    assert count(held) == 4
    assert os.pread(held.fd, held.size, 0).find(b"number 2") > at


def test_a_message_that_is_asked_for_twice_at_once_is_there_once(held: HeldMbox) -> None:
    again = delivery_of(2, repeated=True)
    assert append(Disk(), held, again, again) == [None, None]
    assert count(held) == 2


def test_a_failed_sync_fills_no_quota_and_warns_nobody(held: HeldMbox, tmp_path: Path) -> None:
    warned: list[int] = []
    domain = DomainUsage(str(tmp_path), 100_000)
    with ThreadPoolExecutor(1) as later:
        quota = MailboxQuota(held.path, 2000, QuotaLimits(2000), domain, later, warned.append)
        disk = CountingDisk()
        disk.fails = True
        before = domain.holds()
        long = delivery_of(2, content_of(2, b"x" * 1400 + b"\r\n"))
        for _ in range(3):
            (error,) = append(disk, held, long, quota=quota)
            assert isinstance(error, OSError)
        assert (domain.holds(), warned) == (before, [])
        disk.fails = False
        assert append(disk, held, long, quota=quota) == [None]
        assert domain.holds() == held.size
        assert warned == [80]
        assert isinstance(append(disk, held, delivery_of(3), long, quota=quota)[1], MailboxFull)
