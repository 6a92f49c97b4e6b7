"""mbox files as other programs leave and lock them."""

from __future__ import annotations

import fcntl
import mailbox as stdlib_mailbox
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from mailserver.interfaces import IMailbox, MailboxUnavailable, StoreStopping
from mailserver.store.locks import HeldMbox, MboxLocks
from mailserver.store.mailstore import MailStore
from mailserver.store.mbox import THREADS
from mailserver.values.account import Account
from mailserver.values.address import Address
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

MINE = b"From bob@elsewhere.test Fri Nov 22 19:44:38 2024\n"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MailStore]:
    with store_at(tmp_path / "mail", "mbox") as made:
        yield made


@pytest.fixture
def mailbox(store: MailStore) -> IMailbox:
    return store.mailbox(ADA)


@pytest.fixture
def path(tmp_path: Path, mailbox: IMailbox) -> Path:
    """The mbox, with message 1."""
    deliver(mailbox, delivery_of(1))
    return tmp_path / "mail" / "example.test" / "ada.mbox"


def test_the_file_as_other_programs_read_it(path: Path, mailbox: IMailbox) -> None:
    deliver(mailbox, delivery_of(2, content_of(2, b"From a\r\n>From b\r\n")))
    octets = path.read_bytes()
    assert octets.startswith(MINE)
    assert b"\n\n>From a\n>>From b\n\n" in octets
    assert b"\r" not in octets
    assert [m["Subject"] for m in stdlib_mailbox.mbox(path)] == ["number 1", "number 2"]
    assert not path.with_name("ada.mbox.lock").exists()


@pytest.mark.parametrize("tail", [b"no end", b"one end\n", b"an empty line\n\n", b"\n"])
def test_nothing_is_joined_to_what_another_program_wrote(path: Path, mailbox: IMailbox, tail: bytes) -> None:
    path.write_bytes(b"From x Tue Nov 22 19:44:37 2026\nSubject: theirs\n\n" + tail)
    deliver(mailbox, delivery_of(2))
    with opened(mailbox) as drop:
        theirs, ours = contents(drop)
        assert theirs.startswith(b"Subject: theirs\r\n\r\n" + tail.strip())
        assert ours == sent_form(delivery_of(2))


def test_a_file_that_is_no_mbox_has_no_messages_and_keeps_its_octets(path: Path, mailbox: IMailbox) -> None:
    path.write_bytes(b"not an mbox\n")
    deliver(mailbox, delivery_of(2))
    with opened(mailbox) as drop:
        assert contents(drop) == [sent_form(delivery_of(2))]
        drop.mark(0)
        assert drop.commit() == 0
    assert path.read_bytes() == b"not an mbox\n\n"


@pytest.mark.parametrize("hole", [(0, 30), (0, 999), (40, 90), (3, 4), (60, 999)])
@pytest.mark.parametrize("length", [0, 1, 4, 30, 100, 999])
@pytest.mark.parametrize("appended", [False, True])
def test_a_torn_message_goes_when_it_comes_again(
    path: Path, mailbox: IMailbox, hole: tuple[int, int], length: int, appended: bool
) -> None:
    before = path.read_bytes()
    deliver(mailbox, delivery_of(2))
    torn = bytearray(path.read_bytes()[len(before) :])
    torn[hole[0] : hole[1]] = bytes(len(torn[hole[0] : hole[1]]))
    del torn[length:]
    path.write_bytes(before + torn)
    if appended and length > 4:
        deliver(mailbox, delivery_of(3))
    deliver(mailbox, delivery_of(2, repeated=True))
    with opened(mailbox) as drop:
        numbers = (1, 3, 2) if appended and length > 4 else (1, 2)
        assert contents(drop) == [sent_form(delivery_of(n)) for n in numbers]


def test_a_second_delivery_in_the_same_second_is_no_torn_first_one(path: Path, mailbox: IMailbox) -> None:
    from dataclasses import replace

    other = replace(delivery_of(7), arrived=delivery_of(1).arrived)
    deliver(mailbox, replace(other, repeated=True), delivery_of(1, repeated=True))
    with opened(mailbox) as drop:
        assert contents(drop) == [sent_form(delivery_of(1)), sent_form(delivery_of(7))]


def test_a_program_with_the_dotlock_is_waited_for_and_not_for_ever(path: Path, mailbox: IMailbox) -> None:
    lock = path.with_name("ada.mbox.lock")
    lock.write_bytes(b"")
    with pytest.raises(MailboxUnavailable, match=r"ada\.mbox\.lock"):
        mailbox.deliver(delivery_of(2)).result(SOON)
    with pytest.raises(OSError, match=r"ada\.mbox\.lock"):
        mailbox.maildrop()
    assert lock.exists()
    waiting = mailbox.deliver(delivery_of(2))
    lock.unlink()
    waiting.result(SOON)


@pytest.mark.parametrize("owner", ["old", "dead", "ourselves"])
def test_a_stale_dotlock_is_broken(path: Path, mailbox: IMailbox, owner: str) -> None:
    lock = path.with_name("ada.mbox.lock")
    host = socket.gethostname()
    if owner == "dead":
        ended = subprocess.Popen([sys.executable, "-c", ""])
        ended.wait()
        lock.write_text(f"{ended.pid} {host}\n")
    elif owner == "ourselves":
        lock.write_text(f"{os.getpid()} {host}\n")
    else:
        lock.write_text("1\n")
        os.utime(lock, (time.time() - 601, time.time() - 601))
    deliver(mailbox, delivery_of(2))
    assert sorted(p.name for p in path.parent.iterdir()) == ["ada.mbox"]


@pytest.mark.parametrize("text", ["1 elsewhere", "not a number", "999999999999999999999999 "])
def test_a_lock_of_who_may_live_is_respected(path: Path, mailbox: IMailbox, text: str) -> None:
    path.with_name("ada.mbox.lock").write_text(text + socket.gethostname() * (text[-1] == " "))
    with pytest.raises(MailboxUnavailable):
        mailbox.deliver(delivery_of(2)).result(SOON)


def test_a_mbox_that_stays_locked_holds_up_nobody_who_stands_in_its_line(
    path: Path, mailbox: IMailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = path.with_name("ada.mbox.lock")
    lock.touch()
    held: list[str] = []
    hold = MboxLocks.hold

    def noted(locks: MboxLocks, mbox: str) -> AbstractContextManager[HeldMbox]:
        held.append(mbox)
        return hold(locks, mbox)

    monkeypatch.setattr(MboxLocks, "hold", noted)
    waiting = [mailbox.deliver(delivery_of(number)) for number in range(2, 500)]
    for future in waiting:
        assert isinstance(future.exception(SOON), MailboxUnavailable)
    assert len(held) <= 3  # and not one wait for every fifty of them
    lock.unlink()
    deliver(mailbox, delivery_of(500))


def test_what_waits_for_a_mbox_keeps_no_server_from_stopping(
    path: Path, mailbox: IMailbox, store: MailStore
) -> None:
    lock = path.with_name("ada.mbox.lock")
    lock.touch()
    first = mailbox.deliver(delivery_of(2))
    time.sleep(0.05)
    others = [mailbox.deliver(delivery_of(number)) for number in range(3, 6)]
    store.hurry()
    late = mailbox.deliver(delivery_of(6))
    for future in (*others, late):
        assert isinstance(future.exception(0), StoreStopping)
    lock.unlink()
    first.result(SOON)


def test_who_is_given_back_in_a_hurry_is_not_looked_at_any_more(path: Path, store: MailStore) -> None:
    names = [f"user{number}" for number in range(THREADS + 1)]
    mailboxes = [store.mailbox(Account(Address(name, "example.test"))) for name in names]
    for name in names[:-1]:
        path.with_name(f"{name}.mbox.lock").touch()
    futures = [mailbox.deliver(delivery_of(2)) for mailbox in mailboxes]
    store.hurry()
    assert isinstance(futures[-1].exception(SOON), StoreStopping)
    store.stop()
    assert all(isinstance(future.exception(0), MailboxUnavailable) for future in futures)
    assert not path.with_name(f"{names[-1]}.mbox").exists()


def test_a_program_with_an_fcntl_lock_is_respected(path: Path, mailbox: IMailbox) -> None:
    code = "f = open(sys.argv[1], 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", "import fcntl, sys; " + code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        with pytest.raises(MailboxUnavailable, match="locked by another program"):
            mailbox.deliver(delivery_of(2)).result(SOON)
    finally:
        holder.communicate(b"\n")
    assert not path.with_name("ada.mbox.lock").exists()
    deliver(mailbox, delivery_of(2))


def test_our_own_lock_is_seen_by_others_and_is_free_during_a_session(path: Path, mailbox: IMailbox) -> None:
    with opened(mailbox), path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_what_another_program_changes_is_never_sent_as_something_else(path: Path, mailbox: IMailbox) -> None:
    deliver(mailbox, delivery_of(2))
    with opened(mailbox) as drop:
        deliver(mailbox, delivery_of(3))  # grown: still the same messages
        assert contents(drop) == [sent_form(delivery_of(n)) for n in (1, 2)]
        path.write_bytes(b"From x\n\nother\n\n" + path.read_bytes())  # rewritten in place
        assert contents(drop) == [sent_form(delivery_of(n)) for n in (1, 2)]
        drop.mark(1)
        assert drop.commit() == 0  # found again by its unique id
    with opened(mailbox) as drop:
        assert contents(drop)[1:] == [sent_form(delivery_of(n)) for n in (1, 3)]


def test_a_failed_rewrite_counts_all_and_changes_nothing(path: Path, mailbox: IMailbox) -> None:
    before = path.read_bytes()
    with opened(mailbox) as drop:
        drop.mark(0)
        path.with_name("ada.mbox.rewrite").mkdir()
        assert drop.commit() == 1
    assert path.read_bytes() == before


def test_mode_is_kept_by_a_rewrite(path: Path, mailbox: IMailbox) -> None:
    path.chmod(0o660)
    with opened(mailbox) as drop:
        drop.mark(0)
        drop.commit()
    assert path.stat().st_mode & 0o777 == 0o660


def test_equal_messages_have_different_ids(path: Path, mailbox: IMailbox) -> None:
    path.write_bytes(path.read_bytes() * 3)
    with opened(mailbox) as drop:
        ids = [listing.unique_id for listing in drop.listings]
        assert len(set(ids)) == 3
        drop.mark(2)
        drop.commit()
    with opened(mailbox) as drop:
        assert [listing.unique_id for listing in drop.listings] == ids[:2]


@pytest.mark.parametrize("kind", ["symlink", "hard link", "folder", "fifo"])
def test_only_a_plain_file_takes_mail(path: Path, mailbox: IMailbox, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"kept")
    path.unlink()
    if kind == "symlink":
        path.symlink_to(target)
    elif kind == "hard link":
        path.hardlink_to(target)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises((MailboxUnavailable, OSError)):
        mailbox.deliver(delivery_of(2)).result(SOON)
    assert target.read_bytes() == b"kept"
    assert not path.with_name("ada.mbox.lock").exists()


def test_deliveries_removals_and_another_store_at_once(path: Path, tmp_path: Path, store: MailStore) -> None:
    deliver(store.mailbox(ADA), *(delivery_of(n) for n in range(2, 11)))

    def remove_all() -> None:
        for _ in range(5):
            with opened(store.mailbox(ADA)) as drop:
                for index, listing in enumerate(drop.listings):
                    if b"number 1\r\n" not in b"".join(drop.read(index)) and listing.octets:
                        drop.mark(index)
                removed.append(len(drop.marked))
                assert drop.commit() == 0

    removed: list[int] = []
    with store_at(tmp_path / "mail", "mbox", patience=SOON) as other:
        store._mbox_deliveries.locks._patience = SOON
        remover = threading.Thread(target=remove_all)
        remover.start()
        futures = [s.mailbox(ADA).deliver(delivery_of(n)) for n in range(11, 51, 2) for s in (store, other)]
        for future in futures:
            future.result(SOON)
        remover.join()
    with opened(store.mailbox(ADA)) as drop:
        assert sum(removed) + len(drop.listings) == 1 + 9 + 40
        assert contents(drop)[0] == sent_form(delivery_of(1))


def test_messages_are_found_where_another_program_has_put_them(path: Path, mailbox: IMailbox) -> None:
    """Dovecot and mutt remove messages and write flags in the file itself."""
    deliver(mailbox, *(delivery_of(n) for n in (2, 3, 4)))
    with opened(mailbox) as drop:
        text = path.read_bytes()
        second = text.index(b"From bob", 5)
        third = text.index(b"From bob", second + 5)
        flagged = text[third:].replace(b"Subject: number 3\n", b"Subject: number 3\nStatus: RO\nX-UID: 17\n")
        with path.open("r+b") as file:
            file.write(text[:second] + flagged)
            file.truncate()
        assert drop.whole(2) is None  # whoever must not wait for a lock asks for pieces
        assert b"".join(drop.read(2)) == sent_form(delivery_of(3))
        assert b"".join(drop.read(3)) == sent_form(delivery_of(4))
        assert b"".join(drop.read(0)) == sent_form(delivery_of(1))
        with pytest.raises(OSError, match="another program"):
            drop.read(1)
        drop.mark(1)
        drop.mark(2)
        assert drop.commit() == 0
    with opened(mailbox) as drop:
        assert contents(drop) == [sent_form(delivery_of(n)) for n in (1, 4)]


def test_a_change_in_the_middle_of_reading_is_not_passed_on(path: Path, mailbox: IMailbox) -> None:
    deliver(mailbox, delivery_of(2, content_of(2, b"x" * 70 + b"\r\n")))
    with opened(mailbox) as drop:
        pieces = drop.read(1)
        next(pieces)
        path.write_bytes(path.read_bytes().replace(b"xxx\n", b"yyy\n"))
        with pytest.raises(OSError, match="meanwhile"):
            list(pieces)


def test_the_file_stays_the_same_when_messages_go(path: Path, mailbox: IMailbox) -> None:
    """mutt opens an mbox, waits for its lock, and appends to what it has opened."""
    deliver(mailbox, *(delivery_of(n) for n in (2, 3)))
    with path.open("ab") as waiting:
        with opened(mailbox) as drop:
            drop.mark(1)
            assert drop.commit() == 0
        waiting.write(b"From mutt Tue Nov 22 19:44:37 2016\nSubject: by mutt\n\nbody\n\n")
    with opened(mailbox) as drop:
        assert contents(drop) == [
            *(sent_form(delivery_of(n)) for n in (1, 3)),
            b"Subject: by mutt\r\n\r\nbody\r\n",
        ]


def test_what_another_program_removes_between_the_look_and_the_reading_is_not_read_as_something_else(
    path: Path, mailbox: IMailbox
) -> None:
    deliver(mailbox, delivery_of(1), delivery_of(2))
    with opened(mailbox) as drop:
        pieces = drop.read(1)
        os.truncate(path, path.stat().st_size // 2)
        with pytest.raises(FileNotFoundError):
            b"".join(pieces)
