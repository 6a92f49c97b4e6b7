"""A Maildir's index is believed while it is true, and never when it is not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailserver.durable import Disk
from mailserver.interfaces import IMailbox
from mailserver.store import maildir_index, maildir_snapshot, order
from mailserver.store.maildir_snapshot import Snapshot, Snapshots
from mailserver.store.mailstore import MailStore
from tests.store.deliveries import ADA, opened, store_at

MESSAGES = 300


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MailStore]:
    with store_at(tmp_path / "mail", "maildir") as made:
        yield made


@pytest.fixture
def mailbox(store: MailStore) -> IMailbox:
    return store.mailbox(ADA)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mail" / "example.test" / "ada"
    for name in ("tmp", "new", "cur"):
        (folder / name).mkdir(parents=True)
    for n in range(MESSAGES):
        flags = ":2,S" if n % 2 else ""
        where = folder / ("cur" if n % 2 else "new")
        (where / f"{1_700_000_000 + n * 7919 % MESSAGES}.M{n}.host,S=1,W=2{flags}").write_bytes(b"\n")
    return folder


@pytest.fixture(autouse=True, params=["memory", "disk"])
def at_once(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """Everything holds for what is remembered in memory and for what is on the disk."""
    monkeypatch.setattr(maildir_index, "OLD_SECONDS", -1.0)
    monkeypatch.setattr(maildir_index, "FEWEST", 10 if request.param == "disk" else 10_000)
    monkeypatch.setattr(order, "AT_ONCE", 70)
    return str(request.param)


def told(mailbox: IMailbox) -> list[tuple[int, str]]:
    with opened(mailbox) as drop:
        return [(listing.octets, listing.unique_id) for listing in drop.listings]


def test_the_second_opening_reads_no_folder(
    mailbox: IMailbox, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = told(mailbox)
    assert len(first) == MESSAGES
    assert [int(identity[:10]) for _, identity in first] == [1_700_000_000 + n for n in range(MESSAGES)]
    monkeypatch.setattr(maildir_snapshot, "_scan", None)
    assert told(mailbox) == first


def test_messages_are_read_and_removed_by_the_index(mailbox: IMailbox, folder: Path) -> None:
    told(mailbox)
    with opened(mailbox) as drop:
        assert drop.whole(0) == drop.whole(1) == b"\r\n"
        drop.mark(0)
        drop.mark(1)
        assert drop.commit() == 0
    assert len(told(mailbox)) == MESSAGES - 2


@pytest.mark.parametrize("change", ["add", "remove", "flag", "move"])
def test_a_change_in_a_folder_is_seen(mailbox: IMailbox, folder: Path, change: str) -> None:
    before = told(mailbox)
    one = sorted((folder / "new").iterdir())[0]
    if change == "add":
        (folder / "cur" / "1700009999.x,S=1,W=2:2,").write_bytes(b"\n")
    elif change == "remove":
        one.unlink()
    else:
        one.rename(folder / ("cur" if change == "move" else "new") / f"{one.name}:2,F")
    after = told(mailbox)
    assert len(after) == MESSAGES + {"add": 1, "remove": -1}.get(change, 0)
    assert (after == before) == (change in ("flag", "move"))


def test_a_file_of_the_same_times_in_another_folder_is_another_folder(
    mailbox: IMailbox, folder: Path
) -> None:
    told(mailbox)
    times = os.stat(folder / "new")
    (folder / "new").rename(folder / "old")
    (folder / "new").mkdir()
    os.utime(folder / "new", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert len(told(mailbox)) == MESSAGES // 2


@pytest.mark.parametrize(
    "damage", ["empty", "cut", "head", "middle", "end", "version", "longer", "folder", "symlink"]
)
def test_a_damaged_index_is_no_index(mailbox: IMailbox, folder: Path, damage: str, at_once: str) -> None:
    first = told(mailbox)
    if at_once == "memory":
        return
    index = folder / maildir_index.FILE_NAME
    good = index.read_bytes()
    flips = {"head": 50, "middle": len(good) // 2, "end": len(good) - 1, "version": 0}
    if damage in flips:
        index.write_bytes(
            good[: flips[damage]] + bytes([good[flips[damage]] ^ 1]) + good[flips[damage] + 1 :]
        )
    elif damage in ("folder", "symlink"):
        index.unlink()
        index.mkdir() if damage == "folder" else index.symlink_to("/etc/passwd")
    else:
        index.write_bytes({"empty": b"", "cut": good[:-100], "longer": good + b"x"}[damage])
    assert told(mailbox) == first
    if damage != "folder":
        assert index.read_bytes() == good, "it is made anew"


def test_names_that_lead_elsewhere_are_not_believed(mailbox: IMailbox, folder: Path, tmp_path: Path) -> None:
    first = told(mailbox)
    names = [f"../../{n}" for n in range(MESSAGES)]
    seen = maildir_index.states(str(folder), ("new", "cur"))
    disk = Disk()
    maildir_index.write(disk, str(folder), seen, names, [2] * MESSAGES, names)
    disk.close()
    assert told(mailbox) == first


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maildir_snapshot, "MOST_REMEMBERED", 100)
    monkeypatch.setattr(maildir_index, "FEWEST", 60)
    remembered = Snapshots()
    for n, count in enumerate((50, 40, 70, 20)):
        remembered.put(f"/{n}", [], Snapshot(["x"] * count, [1] * count, ["x"] * count))
    assert [n for n in range(4) if remembered.get(f"/{n}", [])] == [1, 3]
    remembered.put("/1", [(1, 1, 1, 1)], Snapshot(["x"] * 80, [1] * 80, ["x"] * 80))
    assert [n for n in range(4) if remembered.get(f"/{n}", [])] == [3]
    remembered.put("/4", [], Snapshot(["x"] * 60, [1] * 60, ["x"] * 60))
    assert [n for n in range(5) if remembered.get(f"/{n}", [])] == [3, 4]


def test_folders_that_changed_a_moment_ago_are_not_remembered(
    mailbox: IMailbox, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maildir_index, "OLD_SECONDS", 2.0)
    told(mailbox)
    assert not (folder / maildir_index.FILE_NAME).exists()


def test_without_room_for_the_index_all_is_well(
    mailbox: IMailbox, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Disk, "write", full)
    assert len(told(mailbox)) == MESSAGES
    assert sorted(path.name for path in folder.iterdir()) == ["cur", "maildrop.lock", "new", "tmp"]


def test_ids_that_names_do_not_give_are_kept_in_it(mailbox: IMailbox, folder: Path) -> None:
    (folder / "cur" / ("1700009999." + "x" * 90 + ",S=1,W=2:2,")).write_bytes(b"\n")
    first = told(mailbox)
    assert len(first[-1][1]) == 40
    assert told(mailbox) == first


def test_a_file_that_lies_in_the_other_folder_is_found(mailbox: IMailbox, folder: Path) -> None:
    (folder / "cur" / "1600000000.plain,S=1,W=2").write_bytes(b"\n")
    (folder / "new" / "1600000001.flagged,S=1,W=2:2,S").write_bytes(b"\n")
    with opened(mailbox) as drop:
        assert drop.whole(0) is None  # to look for it, the disk may have to be waited for
        assert b"".join(drop.read(0)) == b"".join(drop.read(1)) == b"\r\n"


def test_many_that_were_flagged_meanwhile_are_removed_all_the_same(mailbox: IMailbox, folder: Path) -> None:
    with opened(mailbox) as drop:
        for path in list((folder / "new").iterdir()):
            path.rename(folder / "cur" / f"{path.name}:2,S")
        for index in range(MESSAGES):
            drop.mark(index)
        assert drop.commit() == 0
    assert told(mailbox) == []
