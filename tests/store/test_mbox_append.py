"""Many messages for one mbox: one sync, and what fails takes nothing else along."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mailserver.durable import Disk, DurableFile, StrPath
from mailserver.interfaces import Delivery
from mailserver.store.locks import HeldMbox, MboxLocks
from mailserver.store.mbox_append import append_all
from mailserver.store.mbox_messages import messages_of
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


def append(disk: Disk, held: HeldMbox, *deliveries: Delivery) -> list[Exception | None]:
    return append_all(disk, held, [(delivery, None) for delivery in deliveries])


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


def test_recovered_messages_are_looked_for_once(held: HeldMbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a kill hundreds come again: a mailbox of gigabytes is not read for each of them."""
    long = b"a line of a message that is longer than what is looked at\r\n" * 20
    deliveries = [delivery_of(number, content_of(number, long), repeated=True) for number in range(2, 200)]
    assert append(Disk(), held, *deliveries) == [None] * 198
    octets = 0
    pread = os.pread

    def counted(fd: int, length: int, offset: int) -> bytes:
        nonlocal octets
        found = pread(fd, length, offset)
        octets += len(found)
        return found

    monkeypatch.setattr(os, "pread", counted)
    assert append(Disk(), held, *deliveries) == [None] * 198
    assert octets < 20 * held.size
    assert count(held) == 199
