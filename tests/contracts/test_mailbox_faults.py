"""One fault at a time in one mailbox, on both formats: the outcome says which, nothing is lost, no other
mailbox notices."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from mailserver.deliver.mailbox import _outcome_of
from mailserver.durable import Disk, DurableFile, StrPath
from mailserver.interfaces import IMailbox
from mailserver.store.locks import MboxLocks
from mailserver.store.mailstore import MailStore
from mailserver.store.quota import QuotaLimits
from mailserver.values.account import Account
from mailserver.values.address import Address
from mailserver.values.content import MemoryContent
from mailserver.values.envelope import Recipient
from tests.store.deliveries import ADA, SOON, content_of, contents, deliver, delivery_of, opened, sent_form

BOB = Account(Address("bob", "example.test"))


class FaultyDisk(Disk):
    """Fails for what lies in ada's mailbox, as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.error: OSError | None = None

    def _check(self, path: StrPath) -> None:
        if self.error and "/ada" in os.fspath(path):
            raise self.error

    def write(self, path: StrPath, pieces: Sequence[bytes]) -> None:
        self._check(path)
        super().write(path, pieces)

    def create(self, path: StrPath) -> DurableFile:
        self._check(path)
        return super().create(path)

    def extend(self, path: StrPath) -> DurableFile:
        self._check(path)
        return super().extend(path)

    def make_folder(self, path: StrPath) -> None:
        self._check(path)
        super().make_folder(path)


class Place(NamedTuple):
    """Ada's mailbox, and what its faults need."""

    format: str
    path: Path
    disk: FaultyDisk
    store: MailStore


@pytest.fixture(params=["maildir", "mbox"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    disk = FaultyDisk()
    # The other thread of ours must not wait as long as a user would.
    store = MailStore(
        tmp_path / "mail",
        request.param,
        disk,
        "mx.example.test",
        patience=0.2,
        quota=QuotaLimits(octets=50_000),
    )
    store.start()
    path = tmp_path / "mail" / "example.test" / ("ada" if request.param == "maildir" else "ada.mbox")
    deliver(store.mailbox(ADA), delivery_of(1))
    deliver(store.mailbox(BOB), delivery_of(1))
    try:
        yield Place(request.param, path, disk, store)
    finally:
        store.stop()
        disk.close()


Undo = Callable[[], object]


def disk_full(place: Place) -> Undo:
    return failing(place, errno.ENOSPC)


def quota_of_the_disk(place: Place) -> Undo:
    return failing(place, errno.EDQUOT)


def read_only(place: Place) -> Undo:
    return failing(place, errno.EROFS)


def not_permitted(place: Place) -> Undo:
    return failing(place, errno.EACCES)


def failing(place: Place, number: int) -> Undo:
    place.disk.error = OSError(number, os.strerror(number))
    return lambda: setattr(place.disk, "error", None)


def planted_link(place: Place) -> Undo:
    """The mailbox's folder or file is a link to somewhere else."""
    aside, elsewhere = place.path.with_name("aside"), place.path.parent.parent.parent / "elsewhere"
    place.path.rename(aside)
    elsewhere.mkdir() if place.format == "maildir" else elsewhere.write_bytes(b"")
    place.path.symlink_to(elsewhere)

    def undo() -> None:
        assert not list(elsewhere.iterdir()) if elsewhere.is_dir() else not elsewhere.read_bytes()
        place.path.unlink()
        aside.rename(place.path)

    return undo


def locked(place: Place) -> Undo:
    """Another program keeps the mbox locked; a Maildir has no such lock, but one of the maildrop."""
    if place.format == "maildir":
        drop = place.store.mailbox(ADA).maildrop()
        return drop.release
    holding = MboxLocks(1.0).hold(str(place.path))
    holding.__enter__()
    return lambda: holding.__exit__(None, None, None)


FAULTS: dict[str, tuple[Callable[[Place], Undo], str, str]] = {
    "a full disk": (disk_full, "4.3.1", "the disk is full"),
    "a full quota of the disk": (quota_of_the_disk, "4.2.2", "the mailbox is full"),
    "a read-only folder": (read_only, "4.2.0", "Read-only file system"),
    "a folder of somebody else": (not_permitted, "4.2.0", "Permission denied"),
    "a planted link": (planted_link, "4.2.0", ""),
    "a locked mailbox": (locked, "4.2.0", "ada.mbox"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_and_costs_nothing(place: Place, fault: str) -> None:
    plant, status, text = FAULTS[fault]
    mailbox = place.store.mailbox(ADA)
    undo = plant(place)
    future = mailbox.deliver(delivery_of(2))
    deliver(place.store.mailbox(BOB), delivery_of(2))  # beside it, in the same batch
    error = future.exception(SOON)
    if fault == "a locked mailbox" and place.format == "maildir":
        assert error is None
    else:
        assert error is not None
        outcome = _outcome_of(error, place.format)(Recipient(0, ADA.address, ADA.address))
        assert outcome.status == status
        assert text in outcome.diagnostic
        assert fault != "a planted link" or any(
            w in outcome.diagnostic for w in ("not a folder", "symbolic links")
        )
        assert str(place.path.parent) not in outcome.diagnostic
    undo()
    deliver(mailbox, delivery_of(2, repeated=True))
    assert held(mailbox) == [sent_form(delivery_of(n)) for n in (1, 2)]
    assert held(place.store.mailbox(BOB)) == [sent_form(delivery_of(n)) for n in (1, 2)]


def test_a_full_quota(place: Place) -> None:
    mailbox = place.store.mailbox(ADA)
    too_long = delivery_of(2, content_of(2, b"x" * 60_000))
    error = mailbox.deliver(too_long).exception(SOON)
    assert error is not None
    outcome = _outcome_of(error, place.format)(Recipient(0, ADA.address, ADA.address))
    assert (outcome.status, outcome.diagnostic) == ("4.2.2", "the mailbox is full")
    deliver(place.store.mailbox(BOB), delivery_of(2))
    assert held(mailbox) == [sent_form(delivery_of(1))]


def test_a_missing_folder_is_made_again(place: Place) -> None:
    domain = place.path.parent
    domain.rename(domain.with_name("aside"))
    deliver(place.store.mailbox(ADA), delivery_of(2))
    deliver(place.store.mailbox(BOB), delivery_of(2))
    assert held(place.store.mailbox(ADA)) == [sent_form(delivery_of(2))]
    assert held(place.store.mailbox(BOB)) == [sent_form(delivery_of(2))]


def test_a_name_with_a_line_end(place: Place) -> None:
    """A file of such a name in the Maildir; an mbox's account whose name has one."""
    if place.format == "maildir":
        (place.path / "new" / "17\n.bad").write_bytes(b"Subject: x\n\n")
        assert held(place.store.mailbox(ADA)) == [sent_form(delivery_of(1))]
    odd = Account(Address("a\nb", "example.test"))
    deliver(place.store.mailbox(odd), delivery_of(3))
    assert held(place.store.mailbox(odd)) == [sent_form(delivery_of(3))]
    assert not [name for name in os.listdir(place.path.parent) if "\n" in name]


def test_a_message_of_no_octets(place: Place) -> None:
    nothing = replace(delivery_of(2, MemoryContent(b"")), header=b"")
    deliver(place.store.mailbox(ADA), nothing, delivery_of(3))
    with opened(place.store.mailbox(ADA)) as drop:
        assert [listing.octets for listing in drop.listings] == [len(message) for message in contents(drop)]
        assert contents(drop)[::2] == [sent_form(delivery_of(n)) for n in (1, 3)]
        assert contents(drop)[1] in (b"", b"\r\n")  # an mbox has an empty line there
        assert len({listing.unique_id for listing in drop.listings}) == 3
        drop.mark(1)
        assert drop.commit() == 0
    assert held(place.store.mailbox(ADA)) == [sent_form(delivery_of(n)) for n in (1, 3)]


@pytest.mark.parametrize("rubbish", [b"", b"\0" * 5000, b"\xff rubbish\n" * 9, b"1\n2\n3\n"])
def test_a_corrupt_index(place: Place, rubbish: bytes) -> None:
    """Whatever is kept beside the messages may be damaged: they are all there, with their ids."""
    with opened(place.store.mailbox(ADA)) as drop:
        before = [listing.unique_id for listing in drop.listings]
    names = ("maildrop.index", "maildirsize", "unique-ids", "imported-ids")
    if place.format == "mbox":
        names = (".unique-ids", ".imported-ids", ".rewrite", ".rewrite.unfinished")
    for name in names:
        path = place.path / name if place.format == "maildir" else Path(f"{place.path}{name}")
        path.write_bytes(rubbish)
    with opened(place.store.mailbox(ADA)) as drop:
        assert [listing.unique_id for listing in drop.listings] == before
    deliver(place.store.mailbox(ADA), delivery_of(2))
    assert held(place.store.mailbox(ADA)) == [sent_form(delivery_of(n)) for n in (1, 2)]


def held(mailbox: IMailbox) -> list[bytes]:
    with opened(mailbox) as drop:
        return contents(drop)
