"""Mail from other servers comes with the unique ids that their clients know, once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailserver.durable import Disk
from mailserver.store.exporting import ExportRefused, export
from mailserver.store.foreign_ids import DOVECOT_FORMAT, ForeignIdsError
from mailserver.store.importing import Imported, ImportRefused, import_into, source_at
from mailserver.store.mailboxes import Mailboxes
from mailserver.store.mailstore import MailStore
from tests.store.deliveries import ADA, contents, deliver, delivery_of, opened, sent_form, store_at


@pytest.fixture(params=["maildir", "mbox"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MailStore]:
    with store_at(tmp_path / "mail", request.param) as made:
        yield made


@pytest.fixture
def mailboxes(tmp_path: Path) -> Mailboxes:
    return Mailboxes(Disk(), f"{tmp_path}/mail/example.test/ada", "mx.example.test", 0.2)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A Maildir of another server: one message seen, one new, one with sizes in its name."""
    for name in ("tmp", "new", "cur"):
        (tmp_path / "old" / name).mkdir(parents=True)
    write(tmp_path / "old" / "cur" / "1600000001.V1.old:2,S", 1)
    write(tmp_path / "old" / "new" / "1600000002.V2.old", 2)
    write(tmp_path / "old" / "cur" / "1600000003.V3.old,S=44,W=48:2,FS", 3)
    return tmp_path / "old"


def write(path: Path, number: int) -> None:
    path.write_text(f"Subject: number {number}\n\nFrom here on {'x' * 9}\n")


def octets(number: int) -> bytes:
    return f"Subject: number {number}\r\n\r\nFrom here on {'x' * 9}\r\n".encode()


def bring(
    store: MailStore, mailboxes: Mailboxes, path: Path, ids: str = "", format: str = DOVECOT_FORMAT
) -> Imported:
    return import_into(mailboxes, store.format_of(ADA), source_at(path, ids, format), lambda octets: None)


def seen(store: MailStore) -> dict[str, bytes]:
    with opened(store.mailbox(ADA)) as drop:
        got = contents(drop)
        assert [listing.octets for listing in drop.listings] == [len(message) for message in got]
        return dict(zip((listing.unique_id for listing in drop.listings), got, strict=True))


def test_qmail_names_are_the_ids(store: MailStore, mailboxes: Mailboxes, old: Path) -> None:
    done = bring(store, mailboxes, old)
    assert (done.messages, done.present) == (3, 0)
    assert seen(store) == {
        "1600000001.V1.old": octets(1),
        "1600000002.V2.old": octets(2),
        "1600000003.V3.old,S=44,W=48": octets(3),
    }
    assert sorted(os.listdir(old / "cur")) == ["1600000001.V1.old:2,S", "1600000003.V3.old,S=44,W=48:2,FS"]


def test_dovecot_s_uidlist_gives_the_ids(store: MailStore, mailboxes: Mailboxes, old: Path) -> None:
    (old / "dovecot-uidlist").write_text(
        "3 V1275660208 N26 G3085f01b7f11094c501100008c4a11c1\n"
        "10 :1600000001.V1.old:2,\n"
        "11 W48 PUID7-1100000000 :1600000002.V2.old\n"
        "25 G0123abcd :1600000003.V3.old,S=44,W=48:2,S\n"
    )
    assert bring(store, mailboxes, old).messages == 3
    assert seen(store) == {
        "0000000a4c0907b0": octets(1),
        "UID7-1100000000": octets(2),
        "000000194c0907b0": octets(3),
    }


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ("%v.%u", "1275660208.10"),
        ("%f", "1600000001.V1.old"),
        ("%08Xv%08Xu", "4c0907b00000000a"),
        ("%g", "abc"),
    ],
)
def test_dovecot_s_other_formats(
    store: MailStore, mailboxes: Mailboxes, old: Path, format: str, expected: str
) -> None:
    (old / "dovecot-uidlist").write_text("3 V1275660208 N26\n10 Gabc :1600000001.V1.old:2,\n")
    bring(store, mailboxes, old, format=format)
    assert seen(store)[expected] == octets(1)


def test_dovecot_s_first_version(store: MailStore, mailboxes: Mailboxes, old: Path) -> None:
    (old / "dovecot-uidlist").write_text("1 1275660208 11\n10 1600000001.V1.old:2,S\n")
    bring(store, mailboxes, old)
    assert seen(store)["0000000a4c0907b0"] == octets(1)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("/3 9 1100000000\n{0} 48 3:1100000000:0\n{1} 48 4:0:1\n", ("UID3-1100000000", "UID4")),
        (
            "/2 9 1100000000\n{0} 48 3:1100000000\n{1} 48 4:1100000000\n",
            ("UID3-1100000000", "UID4-1100000000"),
        ),
        ("/1 9\n{0} 48 3\n{1} 48 0\n", ("UID3", "1600000002.V2.old")),
        ("{0} 48\n{1} 48\n", ("1600000001.V1.old", "1600000002.V2.old")),
    ],
)
def test_courier_s_sizelist_gives_the_ids(
    store: MailStore, mailboxes: Mailboxes, old: Path, lines: str, expected: tuple[str, str]
) -> None:
    (old / "courierpop3dsizelist").write_text(lines.format("1600000001.V1.old:2,S", "1600000002.V2.old"))
    bring(store, mailboxes, old)
    got = seen(store)
    assert [got[identity] for identity in expected] == [octets(1), octets(2)]


def test_a_plain_list_gives_the_ids(
    store: MailStore, mailboxes: Mailboxes, old: Path, tmp_path: Path
) -> None:
    (tmp_path / "ids").write_text("first cur/1600000001.V1.old:2,S\nthird 1600000003.V3.old,S=44,W=48\n")
    bring(store, mailboxes, old, str(tmp_path / "ids"))
    assert seen(store) == {"first": octets(1), "1600000002.V2.old": octets(2), "third": octets(3)}


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("dovecot-uidlist", "2 rubbish\n", "does not begin as"),
        ("dovecot-uidlist", "3 V1 N2\nten :x\n", "line 2"),
        ("courierpop3dsizelist", "/2 1 1\nname only\n", "line 2"),
    ],
)
def test_a_broken_list_imports_nothing(
    store: MailStore, mailboxes: Mailboxes, old: Path, file: str, text: str, expected: str
) -> None:
    (old / file).write_text(text)
    with pytest.raises(ForeignIdsError, match=expected):
        bring(store, mailboxes, old)
    assert seen(store) == {}


def test_again_brings_only_what_is_new_and_nothing_that_was_deleted(
    store: MailStore, mailboxes: Mailboxes, old: Path
) -> None:
    (old / "dovecot-uidlist").write_text("3 V1275660208 N26\n10 :1600000001.V1.old:2,\n")
    bring(store, mailboxes, old)
    with opened(store.mailbox(ADA)) as drop:
        drop.mark(0)
        assert drop.commit() == 0
    write(old / "new" / "1600000009.V9.old", 9)
    done = bring(store, mailboxes, old)
    assert (done.messages, done.present) == (1, 3)
    assert seen(store) == {
        "1600000002.V2.old": octets(2),
        "1600000003.V3.old,S=44,W=48": octets(3),
        "1600000009.V9.old": octets(9),
    }


def test_what_is_there_is_not_disturbed(store: MailStore, mailboxes: Mailboxes, old: Path) -> None:
    deliver(store.mailbox(ADA), delivery_of(5))
    ((identity, message),) = seen(store).items()
    bring(store, mailboxes, old)
    got = seen(store)
    assert len(got) == 4
    assert got[identity] == message == sent_form(delivery_of(5))


def test_ids_that_another_message_has_are_not_given_twice(
    store: MailStore, mailboxes: Mailboxes, old: Path, tmp_path: Path
) -> None:
    (tmp_path / "ids").write_text(
        "one 1600000001.V1.old\none 1600000002.V2.old\n" + "x" * 70 + " 1600000003.V3.old\n"
    )
    done = bring(store, mailboxes, old, str(tmp_path / "ids"))
    assert (done.messages, done.renamed) == (3, 1)
    got = seen(store)
    assert len(got) == 3
    assert got["one"] == octets(1)


def test_folders_come_to_a_maildir_alone(
    store: MailStore, mailboxes: Mailboxes, old: Path, tmp_path: Path
) -> None:
    for name in ("new", "cur", "tmp"):
        (old / ".Sent" / name).mkdir(parents=True)
    write(old / ".Sent" / "cur" / "1500000000.V1.old:2,S", 6)
    done = bring(store, mailboxes, old)
    again = bring(store, mailboxes, old)
    assert len(seen(store)) == 3
    if store.format_of(ADA) == "maildir":
        assert (done.folders, done.left, again.folders) == ({".Sent": 1}, (), {".Sent": 0})
        (name,) = os.listdir(tmp_path / "mail" / "example.test" / "ada" / ".Sent" / "cur")
        assert name == "1500000000.V1.old,S=42,W=45:2,S"
    else:
        assert (done.folders, done.left) == ({}, (".Sent",))


def test_an_mbox_brings_its_ids_and_flags(store: MailStore, mailboxes: Mailboxes, tmp_path: Path) -> None:
    (tmp_path / "old.mbox").write_bytes(
        b"From a@b Tue Nov 22 19:44:37 2016\nSubject: one\nX-IMAPbase: 1275660208 11\nX-UID: 10\nStatus: RO\n"
        b"\n>From one\n\n"
        b"From a@b Tue Nov 22 19:44:38 2016\nSubject: two\nX-UIDL: from-elsewhere\nX-UID: 11\n\ntwo\n\n"
        b"From a@b Tue Nov 22 19:44:39 2016 +0300\nSubject: three\nContent-Length: 13\n\nthree\nFrom x\n\n"
    )
    done = bring(store, mailboxes, tmp_path / "old.mbox")
    assert done.messages == 3
    got = seen(store)
    assert got["0000000a4c0907b0"] == b"Subject: one\r\n\r\nFrom one\r\n"
    assert got["from-elsewhere"] == b"Subject: two\r\n\r\ntwo\r\n"
    assert b"Subject: three\r\n\r\nthree\r\nFrom x\r\n" in got.values()
    assert bring(store, mailboxes, tmp_path / "old.mbox").messages == 0


@pytest.mark.parametrize("target", ["backup.mbox", "backup"])
def test_what_is_exported_comes_back_the_same(
    store: MailStore, mailboxes: Mailboxes, old: Path, tmp_path: Path, target: str
) -> None:
    (old / "dovecot-uidlist").write_text("3 V1275660208 N26\n10 :1600000001.V1.old:2,\n")
    bring(store, mailboxes, old)
    deliver(store.mailbox(ADA), delivery_of(5))
    before = seen(store)
    with opened(store.mailbox(ADA)):  # a session is not disturbed
        assert export(mailboxes, store.format_of(ADA), str(tmp_path / target), lambda octets: None) == (4, 0)
    assert oct((tmp_path / target).stat().st_mode & 0o077) == "0o0"
    with pytest.raises(ExportRefused):
        export(mailboxes, store.format_of(ADA), str(tmp_path / target), lambda octets: None)
    with opened(store.mailbox(ADA)) as drop:
        for index in range(4):
            drop.mark(index)
        assert drop.commit() == 0
    for name in ("imported-ids", "ada.mbox.imported-ids"):
        for path in (tmp_path / "mail").rglob(name):
            path.unlink()
    assert bring(store, mailboxes, tmp_path / target).messages == 4
    assert seen(store) == before


def test_what_is_no_mailbox_is_refused(store: MailStore, mailboxes: Mailboxes, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("Hello.\n")
    for path in (tmp_path / "text", tmp_path):
        with pytest.raises(ImportRefused):
            bring(store, mailboxes, path)
    with pytest.raises(FileNotFoundError):
        bring(store, mailboxes, tmp_path / "nothing")
