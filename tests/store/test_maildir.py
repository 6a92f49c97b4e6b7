"""Maildirs as other programs leave them, and folders that are not ours to use."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailserver.durable import Disk, StrPath
from mailserver.interfaces import IMailbox, MailboxUnavailable
from mailserver.store.maildir_files import MaildirWriter
from mailserver.store.mailstore import MailStore
from mailserver.values.content import MemoryContent, PiecesContent
from tests.store.deliveries import (
    ADA,
    HEADER,
    SOON,
    content_of,
    contents,
    deliver,
    delivery_of,
    opened,
    sent_form,
    store_at,
)

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "mail"


@pytest.fixture
def store(root: Path) -> Iterator[MailStore]:
    with store_at(root, "maildir") as made:
        yield made


@pytest.fixture
def mailbox(store: MailStore) -> IMailbox:
    return store.mailbox(ADA)


@pytest.fixture
def folder(root: Path, mailbox: IMailbox) -> Path:
    """The Maildir, made by its first delivery, number 1."""
    deliver(mailbox, delivery_of(1))
    return root / "example.test" / "ada"


def test_names_tell_both_sizes(folder: Path) -> None:
    (path,) = (folder / "new").iterdir()
    assert path.name.startswith("1732304678.M250000Qq1.0.mx.example.test,S=")
    sizes = dict(part.split("=") for part in path.name.split(",")[1:])
    assert int(sizes["S"]) == path.stat().st_size
    assert int(sizes["W"]) == len(sent_form(delivery_of(1)))
    assert b"\r" not in path.read_bytes()
    assert list((folder / "tmp").iterdir()) == []


def test_a_name_with_sizes_is_listed_without_opening_the_file(folder: Path, mailbox: IMailbox) -> None:
    (folder / "cur" / "1.a.host,S=7,W=9:2,RS").write_bytes(b"a\nb\nc\nd")
    with opened(mailbox) as drop:
        assert drop.listings[0].octets == 9
        # A name that lies does not change what is sent.
        assert b"".join(drop.read(0)) == b"a\r\nb\r\nc\r\nd\r\n"


def test_names_without_sizes_are_counted(folder: Path, mailbox: IMailbox) -> None:
    (folder / "cur" / "2.b.host:2,").write_bytes(b"From x\r\n.\nlone\rcr\n\nend")
    with opened(mailbox) as drop:
        expected = b"From x\r\n.\r\nlone\rcr\r\n\r\nend\r\n"
        assert b"".join(drop.read(0)) == expected
        assert drop.listings[0] == type(drop.listings[0])(len(expected), "2.b.host")


def test_what_is_no_message_is_passed_over(folder: Path, mailbox: IMailbox, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (folder / "new" / "1.link").symlink_to(tmp_path / "secret")
    (folder / "new" / "1.folder").mkdir()
    os.mkfifo(folder / "cur" / "1.fifo")
    (folder / "cur" / "1.line\nend,W=5:2,S").write_bytes(b"x")
    (folder / "cur" / ".hidden").write_bytes(b"x")
    with opened(mailbox) as drop:
        assert contents(drop) == [sent_form(delivery_of(1))]


def test_order_is_by_second_then_name(folder: Path, mailbox: IMailbox) -> None:
    for name in ("new/10.z", "cur/9.a:2,S", "new/9.b", "new/nonumber", "cur/١.arabic"):
        (folder / name).write_bytes(name.encode())
    with opened(mailbox) as drop:
        got = [octets.strip().decode() for octets in contents(drop)[:5]]
        assert got == ["new/nonumber", "cur/١.arabic", "cur/9.a:2,S", "new/9.b", "new/10.z"]


def test_ids_that_uidl_cannot_carry_are_hashed(folder: Path, mailbox: IMailbox) -> None:
    names = ["1.a b", "1.ü", "1." + "l" * 69, "1." + "l" * 68, os.fsdecode(b"1.\xff")]
    for name in names:
        (folder / "new" / name).write_bytes(b"x")
    with opened(mailbox) as drop:
        ids = {listing.unique_id for listing in drop.listings}
    assert len(ids) == 6
    assert names[3] in ids
    assert all(1 <= len(i) <= 70 and all(0x21 <= ord(c) <= 0x7E for c in i) for i in ids)


def test_a_reader_moves_and_flags_during_a_session(folder: Path, mailbox: IMailbox) -> None:
    deliver(mailbox, delivery_of(2))
    with opened(mailbox) as drop:
        before = [listing.unique_id for listing in drop.listings]
        for path in list((folder / "new").iterdir()):
            path.rename(folder / "cur" / (path.name + ":2,S"))
        assert b"".join(drop.read(1)) == sent_form(delivery_of(2))
        drop.mark(0)
        assert drop.commit() == 0
    with opened(mailbox) as drop:
        assert [listing.unique_id for listing in drop.listings] == before[1:]


def test_a_vanished_message_cannot_be_read_and_counts_as_removed(folder: Path, mailbox: IMailbox) -> None:
    with opened(mailbox) as drop:
        next((folder / "new").iterdir()).unlink()
        with pytest.raises(FileNotFoundError):
            drop.read(0)
        drop.mark(0)
        assert drop.commit() == 0


def test_what_cannot_be_removed_is_counted(folder: Path, mailbox: IMailbox) -> None:
    deliver(mailbox, delivery_of(2))
    with opened(mailbox) as drop:
        victim = sorted((folder / "new").iterdir())[0]
        victim.unlink()
        victim.mkdir()
        drop.mark(0)
        drop.mark(1)
        assert drop.commit() == 1
    assert [path.name for path in (folder / "new").iterdir()] == [victim.name]


@pytest.mark.parametrize("damage", ["torn", "zeros", "twice", "flagged", "in tmp"])
def test_a_repeated_delivery_mends_what_an_earlier_one_left(
    folder: Path, mailbox: IMailbox, damage: str
) -> None:
    path = next((folder / "new").iterdir())
    whole = path.read_bytes()
    if damage == "torn":
        path.write_bytes(whole[:20])
    elif damage == "zeros":
        path.write_bytes(bytes(len(whole)))
    elif damage == "twice":
        shutil.copy(path, folder / "cur" / (path.name + ":2,S"))
    elif damage == "flagged":
        path.rename(folder / "cur" / (path.name + ":2,RS"))
        (folder / "cur" / (path.name + ":2,RS")).write_bytes(b"torn")
    else:
        path.rename(folder / "tmp" / path.name.split(",")[0])
    deliver(mailbox, delivery_of(1, repeated=True))
    with opened(mailbox) as drop:
        assert contents(drop) == [sent_form(delivery_of(1))]
    assert list((folder / "tmp").iterdir()) == []
    if damage == "flagged":
        assert [p.name for p in (folder / "cur").iterdir()] == [path.name + ":2,RS"]


def test_folders_that_somebody_removed_are_made_again(folder: Path, mailbox: IMailbox) -> None:
    for gone in (folder / "tmp", folder / "new", folder):
        shutil.rmtree(gone)
        deliver(mailbox, delivery_of(5))
        assert len(list((folder / "new").iterdir())) >= 1


@pytest.mark.parametrize("name", ["", "new", "tmp", "cur"])
def test_a_planted_symlink_takes_no_mail(root: Path, mailbox: IMailbox, tmp_path: Path, name: str) -> None:
    target = tmp_path / "target"
    for made in ("tmp", "new", "cur"):
        (target / made).mkdir(parents=True)
    folder = root / "example.test" / "ada"
    (folder if name else folder.parent).mkdir(parents=True)
    (folder / name).symlink_to(target)
    with pytest.raises(MailboxUnavailable, match="not a folder"):
        mailbox.deliver(delivery_of(1)).result(SOON)
    with pytest.raises(OSError, match="not a folder"):
        mailbox.maildrop()
    assert [path for path in target.rglob("*") if path.is_file()] == []


@AS_ROOT
def test_a_folder_of_somebody_else_takes_no_mail(root: Path, mailbox: IMailbox) -> None:
    folder = root / "example.test" / "ada" / "new"
    folder.mkdir(parents=True)
    os.chown(folder, 12345, 12345)
    with pytest.raises(MailboxUnavailable, match="another user"):
        mailbox.deliver(delivery_of(1)).result(SOON)


def test_one_bad_mailbox_does_not_harm_its_batch(store: MailStore, root: Path, folder: Path) -> None:
    from mailserver.values.account import Account
    from mailserver.values.address import Address

    (root / "example.test" / "bad").write_bytes(b"")
    bad = store.mailbox(Account(Address("bad", "example.test")))
    good = store.mailbox(ADA)
    futures = [(bad if n % 2 else good).deliver(delivery_of(n)) for n in range(10, 30)]
    errors = [future.exception(SOON) for future in futures]
    assert [type(error) for error in errors] == [type(None), MailboxUnavailable] * 10


@AS_ROOT
def test_a_full_file_system(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        for format in ("maildir", "mbox"):
            with store_at(small / format, format) as store:
                mailbox = store.mailbox(ADA)
                deliver(mailbox, delivery_of(1))
                for size in (200_000, 400_000):  # in one write, and streamed
                    big = delivery_of(2, content_of(2, b"x" * size + b"\r\n" + b"y" * size))
                    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                        mailbox.deliver(big).result(SOON)
                deliver(mailbox, delivery_of(3))
                with opened(mailbox) as drop:
                    assert contents(drop) == [sent_form(delivery_of(n)) for n in (1, 3)]
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_many_messages_are_listed_by_their_names(
    folder: Path, mailbox: IMailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(3000):
        (folder / "cur" / f"{n}.x.host,S=1,W=2:2,S").touch()
    calls: list[object] = []
    monkeypatch.setattr("mailserver.store.maildir_maildrop.open_regular", calls.append)
    with opened(mailbox) as drop:
        assert len(drop.listings) == 3001
        assert [listing.unique_id for listing in drop.listings[:2]] == [
            "0.x.host,S=1,W=2",
            "1.x.host,S=1,W=2",
        ]
    assert calls == []


@pytest.mark.parametrize("last", [b"end\r\n", b"no line end"])
def test_large_content_in_pieces_is_kept_as_any_other(root: Path, last: bytes) -> None:
    line = b"x" * 70 + b"\r\n"
    pieces = (b"Subject: large\r\n\r", b"\n", line * 2000, line * 2000 + b"half a line end\r", b"\n" + last)
    content = PiecesContent(pieces, sum(map(len, pieces)))
    with store_at(root, "maildir") as store:
        mailbox = store.mailbox(ADA)
        deliver(mailbox, delivery_of(1, content), delivery_of(2, MemoryContent(b"".join(pieces))))
        names = sorted(path.name for path in (root / "example.test/ada/new").iterdir())
        assert [name.partition(",")[2] for name in names[:1]] == [
            name.partition(",")[2] for name in names[1:]
        ]
        with opened(mailbox) as drop:
            first, second = contents(drop)
            assert [listing.octets for listing in drop.listings] == [len(first), len(second)]
    assert first == second
    assert first.startswith(HEADER + b"".join(pieces))


SHM = Path("/dev/shm")


@pytest.mark.skipif(not SHM.is_dir(), reason="there is no second file system")
def test_what_is_mounted_later_is_synced_by_a_descriptor_of_its_own(tmp_path: Path) -> None:
    if SHM.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")

    class Noting(Disk):
        def __init__(self) -> None:
            super().__init__()
            self.synced = 0

        def sync_filesystem(self, folder: StrPath) -> bool:
            self.synced = os.fstat(self._filesystem(os.fspath(folder))).st_dev
            return super().sync_filesystem(folder)

    disk = Noting()
    writer = MaildirWriter(disk, "mx.example.test")
    domain = tmp_path / "example.test"
    writer.place(f"{domain}/ada", delivery_of(1))
    domain.rename(tmp_path / "before")
    with tempfile.TemporaryDirectory(dir=SHM) as mounted:
        domain.symlink_to(mounted)
        for name in ("ada", "bob"):
            placed = writer.place(f"{domain}/{name}", delivery_of(2))
            disk.sync_filesystem(writer.filesystem(f"{domain}/{name}"))
            assert disk.synced == os.stat(placed.path).st_dev, name
    disk.close()


def test_messages_that_come_again_are_looked_for_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a kill hundreds come again: a folder with a hundred thousand files is not listed for each."""
    listed: list[str] = []
    listdir = os.listdir

    def noting(path: str) -> list[str]:
        listed.append(os.path.basename(path))
        return listdir(path)

    with store_at(tmp_path / "mail", "maildir") as store:
        mailbox = store.mailbox(ADA)
        deliver(mailbox, *map(delivery_of, range(1, 50)))
        monkeypatch.setattr(os, "listdir", noting)
        deliver(mailbox, *(delivery_of(number, repeated=True) for number in range(1, 200)))
        monkeypatch.undo()
        assert listed.count("new") <= 10
        with opened(mailbox) as drop:
            assert len(set(contents(drop))) == len(drop.listings) == 199


def test_a_message_that_a_reader_moves_after_the_look_is_not_delivered_again(tmp_path: Path) -> None:
    writer = MaildirWriter(Disk(), "mx.example.test")
    mailbox = str(tmp_path / "ada")
    placed = writer.place(mailbox, delivery_of(1))
    with writer.names.one_look():
        assert writer.has(mailbox, delivery_of(1))
        moved = placed.path.replace("/new/", "/cur/") + ":2,S"
        os.rename(placed.path, moved)
        assert writer.place(mailbox, delivery_of(1, repeated=True)).path == moved
    assert os.listdir(f"{mailbox}/new") == []


def test_what_comes_twice_in_one_look_is_there_once(tmp_path: Path) -> None:
    writer = MaildirWriter(Disk(), "mx.example.test")
    mailbox = str(tmp_path / "ada")
    writer.prepare(mailbox)
    with writer.names.one_look():
        placed = writer.place(mailbox, delivery_of(1, repeated=True))
        moved = placed.path.replace("/new/", "/cur/") + ":2,S"
        os.rename(placed.path, moved)
        assert writer.place(mailbox, delivery_of(1, repeated=True)).path == moved
    assert os.listdir(f"{mailbox}/new") == []
