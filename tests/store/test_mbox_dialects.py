"""mboxo, mboxcl and mboxcl2; fields that programs keep in an mbox; locks in either order."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailserver.interfaces import IMailbox
from mailserver.store.status_fields import without_fields
from mailserver.store.sweep import TMP_SECONDS, sweep_tmp
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

FROM = b"From x@y.test Tue Nov 22 19:44:37 2026\n"


@pytest.fixture
def mailbox(tmp_path: Path) -> Iterator[IMailbox]:
    with store_at(tmp_path / "mail", "mbox", patience=SOON) as store:
        yield store.mailbox(ADA)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "mail" / "example.test"
    folder.mkdir(parents=True)
    return folder / "ada.mbox"


def counted(body: bytes, more: int = 0) -> bytes:
    return FROM + b"Subject: s\nContent-Length: %d\n\n" % (len(body) + more) + body + b"\n"


def bodies(mailbox: IMailbox) -> list[bytes]:
    with opened(mailbox) as drop:
        read = contents(drop)
        assert [len(octets) for octets in read] == [listing.octets for listing in drop.listings]
        return [octets.partition(b"\r\n\r\n")[2].replace(b"\r\n", b"\n") for octets in read]


BARE = b"one\n\nFrom me\n>From you\n\nFrom him\n"
QUOTED = b"one\n\n>From me\n"


@pytest.mark.parametrize(
    ("octets", "expected"),
    [
        (FROM + b"S: s\n\n" + QUOTED + b"\n", [b"one\n\nFrom me\n"]),  # mboxo
        (counted(QUOTED), [b"one\n\nFrom me\n"]),  # mboxcl
        (counted(BARE), [BARE]),  # mboxcl2, at the end
        (counted(BARE) * 3, [BARE] * 3),
        (counted(BARE)[:-1] + counted(b"x\n"), [BARE, b"x\n"]),  # no empty line between
        (counted(b"a\n\nFrom b\n", 3) + counted(b"x\n"), [b"a\n", b"", b"x\n"]),
        (counted(b"a\n", 10**9) + counted(b"x\n"), [b"a\n", b"x\n"]),
        (counted(b"a\n").replace(b"h: 2", b"h: -2") + counted(b"x\n"), [b"a\n", b"x\n"]),
        (FROM + b"S: s\n\nContent-Length: 99\n\n" + counted(b"x\n"), [b"Content-Length: 99\n", b"x\n"]),
    ],
)
def test_every_dialect_is_read(mailbox: IMailbox, path: Path, octets: bytes, expected: list[bytes]) -> None:
    path.write_bytes(octets)
    assert bodies(mailbox) == expected


def test_what_is_delivered_after_them_stands_alone(mailbox: IMailbox, path: Path) -> None:
    path.write_bytes(counted(BARE))
    deliver(mailbox, delivery_of(2))
    with opened(mailbox) as drop:
        assert len(drop.listings) == 2
        assert b"".join(drop.read(1)) == sent_form(delivery_of(2))
        drop.mark(0)
        assert drop.commit() == 0
    assert bodies(mailbox) == [b"Hello.\n"]


def test_a_sender_cannot_count_for_us_nor_set_flags(mailbox: IMailbox, path: Path) -> None:
    content = content_of(1)
    content = type(content)(
        b"STATUS: RO\r\n folded\r\nX-UID : 7\r\nContent-length: 9999\r\nx-imapbase: 1 1\r\nTo: a\r\n"
        + b"".join(content.chunks())
        + b"Status: in the body\r\n"
    )
    deliver(mailbox, delivery_of(1, content), delivery_of(2))
    with opened(mailbox) as drop:
        assert (
            contents(drop)[0]
            == delivery_of(1).header
            + b"To: a\r\n"
            + b"".join(content_of(1).chunks())
            + b"Status: in the body\r\n"
        )
    deliver(mailbox, delivery_of(1, content, repeated=True))
    with opened(mailbox) as drop:
        assert len(drop.listings) == 2


def test_fields_are_left_out_however_the_pieces_fall() -> None:
    message = b"A: 1\nStatus: RO\n and more\nB: 2\nX-Keywords:" + b" " * 99 + b"\n\nStatus: body\n"
    for size in range(1, len(message)):
        pieces = [message[at : at + size] for at in range(0, len(message), size)]
        assert b"".join(without_fields(pieces)) == b"A: 1\nB: 2\n\nStatus: body\n"
    assert b"".join(without_fields([b"A: 1\nStatus: no end"])) == b"A: 1\n"
    assert b"".join(without_fields([b"no field at all"])) == b"no field at all"
    assert b"".join(without_fields([b"A: 1\n\n", b"", b"Status: b"])) == b"A: 1\n\nStatus: b"


def test_ids_and_octets_stay_when_a_reader_sets_flags(mailbox: IMailbox, path: Path) -> None:
    deliver(mailbox, *(delivery_of(n) for n in range(3)))
    with opened(mailbox) as drop:
        before = list(drop.listings)
    path.write_bytes(path.read_bytes().replace(b"\n\nHello", b"\nStatus: RO\nX-UID: 3\n\nHello"))
    with opened(mailbox) as drop:
        assert list(drop.listings) == before
        assert contents(drop) == [sent_form(delivery_of(n)) for n in range(3)]


def test_what_a_program_notes_about_the_folder_is_no_message(mailbox: IMailbox, path: Path) -> None:
    note = FROM + b"Subject: DON'T DELETE THIS MESSAGE -- FOLDER INTERNAL DATA\nX-IMAP: 1 0\n\nText\n\n"
    path.write_bytes(note + counted(b"x\n"))
    with opened(mailbox) as drop:
        drop.mark(0)
        assert drop.commit() == 0
    assert path.read_bytes() == note


def test_who_locks_in_the_other_order_is_not_blocked(mailbox: IMailbox, path: Path) -> None:
    deliver(mailbox, delivery_of(1))
    dotlock = path.with_name("ada.mbox.lock")
    with path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        waiting = mailbox.deliver(delivery_of(2))
        deadline = time.monotonic() + SOON
        while True:  # fcntl is ours; the other waits for it, yet lets us have the dotlock
            try:
                fd = os.open(dotlock, os.O_CREAT | os.O_EXCL)
                break
            except FileExistsError:
                assert time.monotonic() < deadline
                threading.Event().wait(0.001)
        os.close(fd)
        assert not waiting.done()
        dotlock.unlink()
    waiting.result(SOON)
    assert len(bodies(mailbox)) == 2


def test_tmp_is_swept_after_36_hours_and_folders_are_left_alone(tmp_path: Path) -> None:
    now = time.time()
    for folder in ("tmp", "new", ".Sent/tmp"):
        (tmp_path / folder).mkdir(parents=True)
        for name, age in (("old", TMP_SECONDS + 9), ("young", TMP_SECONDS - 9)):
            file = tmp_path / folder / name
            file.write_bytes(b"x")
            os.utime(file, (now - age, now - age))
    (tmp_path / "tmp" / "link").symlink_to(tmp_path / "new" / "old")
    (tmp_path / "tmp" / "folder").mkdir()
    assert sweep_tmp(str(tmp_path), now) == 1
    left = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file())
    assert left == [".Sent/tmp/old", ".Sent/tmp/young", "new/old", "new/young", "tmp/link", "tmp/young"]
    assert sweep_tmp(str(tmp_path / "ada.mbox"), now) == 0
