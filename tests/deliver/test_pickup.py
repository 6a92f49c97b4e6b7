"""The drop folder is emptied into the spool: exactly once, whatever moment a crash comes at."""

import os
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from mailserver.deliver.drop import make_folder, put
from mailserver.deliver.pickup import Pickup, PickupPlace
from mailserver.durable import Disk
from mailserver.values.account import Account, LocalUser
from mailserver.values.address import Address
from mailserver.values.content import MemoryContent
from mailserver.values.envelope import Entry, Envelope

ADA = Address("ada", "a.test")


def done(value: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(value) if isinstance(value, Exception) else future.set_result(value)
    return future


class Spool:
    """Counts from 7; ``error`` is raised by commits."""

    def __init__(self) -> None:
        self.id = 7
        self.error: Exception | None = None
        self.kept: list[tuple[Envelope, bytes]] = []
        self.present: set[int] = set()
        self.content = b""

    def begin(self) -> "Spool":
        self.content = b""
        return self

    def write(self, octets: bytes) -> None:
        self.content += octets

    def commit(self, envelope: Envelope) -> Future[Entry]:
        if self.error:
            return done(self.error)
        self.kept.append((envelope, self.content))
        return done(Entry(self.id, 1.0, envelope, (), MemoryContent(self.content)))

    def abort(self) -> None:
        self.content = b""

    def is_gone(self, number: int) -> Future[bool]:
        return done(number not in self.present)


class AtOnce:
    """Threads and bridge that do in place what they are asked for."""

    def call(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        try:
            return succeed(function(*args))
        except Exception:
            return fail()

    def deferred(self, future: Future[Any]) -> Deferred[Any]:
        return self.call(future.result)


class Directory:
    def resolve(self, address: Address) -> LocalUser:
        return LocalUser(Account(address))


class House:
    def __init__(self, folder: Path) -> None:
        self.spool, self.clock = Spool(), Clock()
        self.folder = folder
        self.accepted: list[list[str]] = []
        at_once: Any = AtOnce()
        place: Any = PickupPlace(
            folder,
            "mx.a.test",
            10_000,
            self.spool,
            Directory(),
            lambda entry: self.accepted.append(os.listdir(folder)),
            lambda: 0.0,
        )
        self.pickup = Pickup(place, Disk(), at_once, at_once, self.clock)


@pytest.fixture
def house(tmp_path: Path) -> House:
    make_folder(tmp_path / "drop")
    return House(tmp_path / "drop")


def test_a_message_is_taken_and_gone_before_it_sets_out(house: House) -> None:
    house.pickup.open()
    house.pickup.start()
    put(house.folder, ADA, [ADA], b"Subject: x\n\nhi\n")
    house.clock.advance(1)
    ((envelope, content),) = house.spool.kept
    assert [one.address for one in envelope.recipients] == [ADA]
    assert content.startswith(b"Received: by mx.a.test (local user ")
    assert content.endswith(b"Subject: x\r\n\r\nhi\r\n")
    assert house.accepted == [[]]
    house.pickup.stop()


def test_a_spool_that_fails_leaves_the_file(house: House) -> None:
    name = put(house.folder, ADA, [ADA], b"x\n")
    house.spool.error = OSError(28, "full")
    house.pickup.open()
    house.pickup.start()
    assert os.listdir(house.folder) == [name]
    house.spool.error = None
    house.clock.advance(1)
    assert os.listdir(house.folder) == []
    assert len(house.spool.kept) == 1
    house.pickup.stop()


def test_a_crash_before_and_after_the_commit(house: House) -> None:
    before, after = (put(house.folder, ADA, [ADA], b"x\n") for _ in range(2))
    os.rename(house.folder / before, house.folder / f"{before}.8")
    os.rename(house.folder / after, house.folder / f"{after}.9")
    house.spool.present = {9}
    house.pickup.open()
    assert os.listdir(house.folder) == [before]


def test_what_is_wrong_is_set_aside(house: House) -> None:
    (house.folder / "bad.mail").write_bytes(b"rubbish")
    loop = put(house.folder, ADA, [ADA], b"Received: x\n" * 101 + b"\nx\n")
    house.pickup.open()
    house.pickup.start()
    assert sorted(os.listdir(house.folder)) == sorted(["bad.mail.wrong", f"{loop}.wrong"])
    assert house.spool.kept == []
    house.pickup.stop()
