"""What every IMailbox does, run on Maildir (both ways of writing) and mbox."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from zope.interface.verify import verifyObject

from mailserver.durable import Disk, DurableFile, StrPath
from mailserver.interfaces import IMailbox, MailboxUnavailable, MaildropInUse
from mailserver.store import maildir_files
from mailserver.store.mailstore import MailStore
from mailserver.values.address import NULL_SENDER
from mailserver.values.content import FileContent, MemoryContent
from tests.store.deliveries import (
    ADA,
    SOON,
    content_of,
    contents,
    deliver,
    delivery_of,
    opened,
    sent_form,
    store_at,
)


class FaultyDisk(Disk):
    """Fails as it is told: at writing, or at syncing. Syncs file by file with ``each``."""

    def __init__(self, each: bool = False) -> None:
        super().__init__()
        self.each = each
        self.writing: OSError | None = None
        self.syncing: OSError | None = None

    def write(self, path: StrPath, pieces: Sequence[bytes]) -> None:
        if self.writing:
            raise self.writing
        super().write(path, pieces)

    def create(self, path: StrPath) -> DurableFile:
        return self._faulty(super().create(path))

    def extend(self, path: StrPath) -> DurableFile:
        return self._faulty(super().extend(path))

    def sync_file(self, path: StrPath) -> None:
        if self.syncing:
            raise self.syncing
        super().sync_file(path)

    def sync_filesystem(self, folder: StrPath) -> bool:
        if self.syncing:
            raise self.syncing
        return not self.each and super().sync_filesystem(folder)

    def _faulty(self, file: DurableFile) -> DurableFile:
        disk = self

        class Faulty(DurableFile):
            def write(self, *pieces: bytes) -> None:
                octets = b"".join(pieces)
                if disk.writing:
                    super().write(octets[: len(octets) // 2])
                    raise disk.writing
                super().write(octets)

            def sync(self) -> None:
                if disk.syncing:
                    raise disk.syncing
                super().sync()

        return Faulty(file.fd)


@pytest.fixture(params=["maildir", "maildir streamed", "maildir without syncfs", "mbox"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if "streamed" in request.param:  # what is larger than a line or two
        monkeypatch.setattr(maildir_files, "IN_MEMORY_OCTETS", 100)
    return str(request.param)


@pytest.fixture
def disk(kind: str) -> FaultyDisk:
    return FaultyDisk(each="without" in kind)


@pytest.fixture
def store(kind: str, disk: FaultyDisk, tmp_path: Path) -> Iterator[MailStore]:
    with store_at(tmp_path / "mail", kind.split()[0], disk) as made:
        yield made


@pytest.fixture
def mailbox(store: MailStore) -> IMailbox:
    return store.mailbox(ADA)


def test_it_provides_the_interface(mailbox: IMailbox) -> None:
    verifyObject(IMailbox, mailbox)


def test_what_is_delivered_is_there_unchanged_and_in_order(mailbox: IMailbox) -> None:
    deliveries = [delivery_of(n) for n in range(120)]
    deliver(mailbox, *deliveries)
    with opened(mailbox) as drop:
        assert contents(drop) == [sent_form(d) for d in deliveries]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no end",
        b"\r\n\r\n\r\n",
        b"From me\r\n>From you\r\n>>From all\r\n From none\r\n>not From\r\nFromage\r\n",
        b"\r\nFrom a@b.test Tue Nov 22 19:44:37 2026\r\n\r\n",
        b".\r\n..\r\nlone\rCR and NUL \0\r\n",
        "Üç müşteri — نامه‌ها — Київ\r\n".encode(),
        b">" * 3000 + b"From far\r\n",
    ],
)
def test_every_body_survives(mailbox: IMailbox, body: bytes) -> None:
    first, second = delivery_of(1, content_of(1, body)), delivery_of(2)
    deliver(mailbox, first, second)
    with opened(mailbox) as drop:
        got = contents(drop)
        expected = sent_form(first)
        assert got == [expected + (b"" if expected.endswith(b"\n") else b"\r\n"), sent_form(second)]
        assert [listing.octets for listing in drop.listings] == [len(octets) for octets in got]


def test_content_that_is_nothing_but_a_from_line(mailbox: IMailbox) -> None:
    delivery = replace(delivery_of(1, MemoryContent(b"From x\r\n")), header=b"", reverse_path=NULL_SENDER)
    deliver(mailbox, delivery)
    with opened(mailbox) as drop:
        assert contents(drop) == [b"From x\r\n"]


def test_large_content_comes_from_its_file_in_pieces(mailbox: IMailbox, tmp_path: Path) -> None:
    # Line ends and "From " fall on every side of the borders between pieces.
    octets = b"".join(b"%s\r\nFrom %d\r\n\r\n" % (b"x" * (n % 83), n) for n in range(30_000))
    (tmp_path / "content").write_bytes(octets)
    delivery = delivery_of(1, FileContent(tmp_path / "content", len(octets)))
    deliver(mailbox, delivery)
    with opened(mailbox) as drop:
        assert b"".join(drop.read(0)) == sent_form(delivery)
        assert drop.listings[0].octets == len(sent_form(delivery))
        assert max(map(len, drop.read(0))) <= 2 * 64 * 1024 + 2


def test_a_repeated_delivery_leaves_one_message(mailbox: IMailbox) -> None:
    deliver(mailbox, delivery_of(1), delivery_of(2))
    deliver(
        mailbox, delivery_of(1, repeated=True), delivery_of(2, repeated=True), delivery_of(3, repeated=True)
    )
    with opened(mailbox) as drop:
        assert sorted(contents(drop)) == sorted(sent_form(delivery_of(n)) for n in (1, 2, 3))


def test_a_missing_mailbox_opens_empty(mailbox: IMailbox) -> None:
    with opened(mailbox) as drop:
        assert list(drop.listings) == []
        assert drop.commit() == 0


def test_the_lock_is_exclusive_and_free_after_release(store: MailStore, mailbox: IMailbox) -> None:
    with opened(mailbox) as drop:
        with pytest.raises(MaildropInUse):
            store.mailbox(ADA).maildrop()
        drop.release()
        with opened(mailbox):
            pass


def test_deliveries_go_on_during_a_session(mailbox: IMailbox) -> None:
    deliver(mailbox, delivery_of(1))
    with opened(mailbox) as drop:
        deliver(mailbox, delivery_of(2))
        assert len(drop.listings) == 1
        drop.mark(0)
        assert drop.commit() == 0
    with opened(mailbox) as drop:
        assert contents(drop) == [sent_form(delivery_of(2))]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_a_failed_write_fails_its_own_future_and_shows_nothing(
    mailbox: IMailbox, disk: FaultyDisk, number: int
) -> None:
    deliver(mailbox, delivery_of(1))
    disk.writing = OSError(number, "planted")
    with pytest.raises(OSError, match="planted"):
        mailbox.deliver(delivery_of(2)).result(SOON)
    disk.writing = None
    deliver(mailbox, delivery_of(3), delivery_of(2, repeated=True))
    with opened(mailbox) as drop:
        assert sorted(contents(drop)) == sorted(sent_form(delivery_of(n)) for n in (1, 2, 3))


def test_a_failed_sync_fails_all_and_shows_nothing(mailbox: IMailbox, disk: FaultyDisk) -> None:
    deliver(mailbox, delivery_of(1))
    disk.syncing = OSError(errno.EIO, "planted")
    futures = [mailbox.deliver(delivery_of(n)) for n in (2, 3)]
    for future in futures:
        with pytest.raises(OSError, match="planted"):
            future.result(SOON)
    with opened(mailbox) as drop:
        assert contents(drop) == [sent_form(delivery_of(1))]
    disk.syncing = None
    deliver(mailbox, *(delivery_of(n, repeated=True) for n in (2, 3)))
    with opened(mailbox) as drop:
        assert sorted(contents(drop)) == sorted(sent_form(delivery_of(n)) for n in (1, 2, 3))


def test_content_that_cannot_be_read_fails_its_own_future(mailbox: IMailbox, tmp_path: Path) -> None:
    gone = FileContent(tmp_path / "gone", 1_000_000)
    with pytest.raises(FileNotFoundError):
        mailbox.deliver(delivery_of(1, gone)).result(SOON)
    deliver(mailbox, delivery_of(2))
    with opened(mailbox) as drop:
        assert contents(drop) == [sent_form(delivery_of(2))]


def test_a_stopped_store_takes_nothing_and_leaves_nothing(store: MailStore, mailbox: IMailbox) -> None:
    deliver(mailbox, delivery_of(1))
    futures = [mailbox.deliver(delivery_of(n)) for n in range(2, 80)]
    store.stop()
    store.stop()
    assert all(future.done() and future.exception() is None for future in futures)
    with pytest.raises(MailboxUnavailable):
        mailbox.deliver(delivery_of(99)).result(SOON)
    with opened(mailbox) as drop:
        assert len(drop.listings) == 79
