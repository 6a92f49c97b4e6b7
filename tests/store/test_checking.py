"""Whatever goes wrong with a mailbox is found, and mended without losing a message or an id."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailserver.durable import Disk
from mailserver.store.checking import repair, verify
from mailserver.store.kept_ids import kept_path, write_kept
from mailserver.store.mailboxes import Mailboxes
from mailserver.store.mailstore import MailStore
from tests.store.deliveries import ADA, contents, deliver, delivery_of, opened, store_at


@pytest.fixture(params=["maildir", "mbox"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MailStore]:
    with store_at(tmp_path, request.param) as made:
        deliver(made.mailbox(ADA), *(delivery_of(n) for n in range(3)))
        yield made


@pytest.fixture
def mailboxes(store: MailStore, tmp_path: Path) -> Mailboxes:
    return Mailboxes(Disk(), f"{tmp_path}/example.test/ada", "mx.example.test", 0.2)


def seen(store: MailStore) -> list[tuple[str, bytes]]:
    with opened(store.mailbox(ADA)) as drop:
        got = contents(drop)
        assert [listing.octets for listing in drop.listings] == [len(message) for message in got]
        return list(zip((listing.unique_id for listing in drop.listings), got, strict=True))


def kinds(store: MailStore, mailboxes: Mailboxes) -> list[str]:
    return [finding.kind for finding in verify(mailboxes, store.format_of(ADA), lambda octets: None)]


def mended(store: MailStore, mailboxes: Mailboxes) -> tuple[list[str], list[str]]:
    done, left = repair(mailboxes, store.format_of(ADA), lambda octets: None)
    return [finding.kind for finding in done], [finding.kind for finding, _ in left]


def file(maildir: Path, number: int = 0) -> Path:
    return sorted((maildir / "new").iterdir())[number]


def longer(maildir: Path) -> None:
    with file(maildir).open("a") as message:
        message.write("one more line\n")


def double(maildir: Path) -> None:
    (maildir / "cur" / (file(maildir).name + ":2,S")).write_bytes(file(maildir).read_bytes())


def double_with_other_text(maildir: Path) -> None:
    (maildir / "cur" / (file(maildir).name + ":2,S")).write_bytes(b"Subject: another\n\n")


def line_end(maildir: Path) -> None:
    file(maildir).rename(maildir / "new" / "17\n18")


def symlink(maildir: Path) -> None:
    (maildir / "new" / "99.link").symlink_to("/etc/passwd")


def old_tmp(maildir: Path) -> None:
    (maildir / "tmp" / "old").write_bytes(b"torn")
    os.utime(maildir / "tmp" / "old", (1, 1))


Damage = Callable[[Path], object]
MAILDIR: dict[str, tuple[Damage, list[str], bool, int]] = {
    "a size": (longer, ["size"], True, 3),
    "twice": (double, ["twice"], True, 3),
    "twice, not the same": (double_with_other_text, ["twice", "size"], True, 4),
    "a line end in a name": (line_end, ["name"], True, 3),
    "a symbolic link": (symlink, ["foreign"], False, 3),
    "a FIFO": (lambda maildir: os.mkfifo(maildir / "cur" / "fifo"), ["foreign"], False, 3),
    "an old file in tmp": (old_tmp, ["remains"], True, 3),
    "an open folder": (lambda maildir: (maildir / "cur").chmod(0o755), ["permissions"], True, 3),
    "a closed message": (lambda maildir: file(maildir).chmod(0o200), ["permissions"], True, 3),
    "a wrong count": (
        lambda maildir: (maildir / "maildirsize").write_text("1000S\n5 1\n"),
        ["maildirsize"],
        True,
        3,
    ),
    "lines that are no ids": (
        lambda maildir: (maildir / "unique-ids").write_bytes(b"\xff\n"),
        ["unique ids"],
        True,
        3,
    ),
}


@pytest.mark.parametrize("store", ["maildir"], indirect=True)
@pytest.mark.parametrize("what", MAILDIR)
def test_a_maildir_s_damage(store: MailStore, mailboxes: Mailboxes, what: str) -> None:
    damage, expected, can_mend, messages = MAILDIR[what]
    before = dict(seen(store))
    assert kinds(store, mailboxes) == []
    damage(Path(mailboxes.maildir))
    assert sorted(kinds(store, mailboxes)) == sorted(expected)
    done, left = mended(store, mailboxes)
    assert (sorted(done), left) == ((sorted(expected), []) if can_mend else ([], expected))
    assert kinds(store, mailboxes) == ([] if can_mend else expected)
    after = dict(seen(store))
    assert len(after) == messages
    # Every client finds the ids that it knows; only a message that was not served has a new one.
    assert set(before) <= set(after) if what != "a line end in a name" else len(set(before) & set(after)) == 2


def hold_text(mbox: Path) -> None:
    mbox.write_bytes(b"Subject: before\n\ntext\n\n" + mbox.read_bytes())


MBOX: dict[str, tuple[Damage, list[str], bool, int]] = {
    "open to others": (lambda mbox: mbox.chmod(0o644), ["permissions"], True, 3),
    "a killed rewrite": (lambda mbox: Path(f"{mbox}.rewrite").write_bytes(b"torn"), ["remains"], True, 3),
    "a killed command": (lambda mbox: Path(f"{mbox}.17.converting").write_bytes(b""), ["remains"], True, 3),
    "text before": (hold_text, ["text"], True, 4),
    "a second name": (lambda mbox: os.link(mbox, mbox.parent / "second"), ["foreign"], False, 3),
    "lines that are no ids": (
        lambda mbox: Path(kept_path(str(mbox))).write_bytes(b"one two three\n"),
        ["unique ids"],
        True,
        3,
    ),
}


@pytest.mark.parametrize("store", ["mbox"], indirect=True)
@pytest.mark.parametrize("what", MBOX)
def test_an_mbox_s_damage(store: MailStore, mailboxes: Mailboxes, what: str) -> None:
    damage, expected, can_mend, messages = MBOX[what]
    before = dict(seen(store))
    assert kinds(store, mailboxes) == []
    damage(Path(mailboxes.mbox))
    assert kinds(store, mailboxes) == expected
    assert mended(store, mailboxes) == ((expected, []) if can_mend else ([], expected))
    assert kinds(store, mailboxes) == ([] if can_mend else expected)
    (Path(mailboxes.mbox).parent / "second").unlink(missing_ok=True)
    after = dict(seen(store))
    assert len(after) == messages
    assert set(before) <= set(after)


def test_one_id_for_two_messages(store: MailStore, mailboxes: Mailboxes) -> None:
    first, second, third = (identity for identity, _ in seen(store))
    path = mailboxes.path(store.format_of(ADA))
    write_kept(Disk(), path, {first: "UID1", second: "UID1"})
    assert kinds(store, mailboxes) == ["unique ids"]
    assert mended(store, mailboxes) == (["unique ids"], [])
    assert [identity for identity, _ in seen(store)] == ["UID1", second, third]
    assert kinds(store, mailboxes) == []


def test_mail_in_the_other_format_is_told_of(store: MailStore, mailboxes: Mailboxes) -> None:
    other = "mbox" if store.format_of(ADA) == "maildir" else "maildir"
    with store_at(Path(mailboxes.maildir).parent.parent, other) as beside:
        deliver(beside.mailbox(ADA), delivery_of(9))
    assert kinds(store, mailboxes) == ["format"]
    assert mended(store, mailboxes) == ([], ["format"])


def test_a_mailbox_that_is_not_there_has_nothing_wrong(tmp_path: Path, store: MailStore) -> None:
    nobody = Mailboxes(Disk(), f"{tmp_path}/example.test/nobody", "mx.example.test")
    assert list(verify(nobody, store.format_of(ADA), lambda octets: None)) == []
