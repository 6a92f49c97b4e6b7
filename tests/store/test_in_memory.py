"""What the reactor's thread reads of a maildrop by itself: a small message in memory, and nothing else."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailserver.interfaces import IMailbox
from mailserver.store import octets
from tests.store.deliveries import ADA, deliver, delivery_of, opened, sent_form, store_at

FORMATS = ("maildir", "mbox")


@pytest.fixture(params=FORMATS)
def mailbox(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[IMailbox]:
    with store_at(tmp_path, request.param) as store:
        mailbox = store.mailbox(ADA)
        deliver(mailbox, delivery_of(1), delivery_of(2))
        yield mailbox


def says(error: int) -> Any:
    def preadv(*_: object) -> int:
        raise OSError(error, os.strerror(error))

    return preadv


def can_tell(folder: Path) -> bool:
    """Whether the file system says what it would have to wait for."""
    (folder / "probe").write_bytes(b"x")
    try:
        with (folder / "probe").open("rb") as file:
            return os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT) == 1
    except OSError:
        return False


def forget(folder: Path) -> None:
    """Ask the system to drop from memory what files hold; it does not while somebody else is at them."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_a_message_in_memory_is_read_at_once(mailbox: IMailbox, tmp_path: Path) -> None:
    if not can_tell(tmp_path):
        pytest.skip("this file system does not tell")
    with opened(mailbox) as drop:
        assert drop.whole(0) == sent_form(delivery_of(1))
        assert drop.whole(1) == sent_form(delivery_of(2))
        assert drop.whole(0) == sent_form(delivery_of(1))


def test_one_on_the_disk_is_left_to_a_thread(mailbox: IMailbox, tmp_path: Path) -> None:
    if not can_tell(tmp_path):
        pytest.skip("this file system does not tell")
    with opened(mailbox) as drop:
        for _ in range(100):
            forget(tmp_path)
            if drop.whole(0) is None:
                break
        else:
            pytest.fail("it was never left to a thread")
        assert b"".join(drop.read(0)) == sent_form(delivery_of(1))


@pytest.mark.parametrize("error", [errno.EAGAIN, errno.EOPNOTSUPP, errno.EIO])
def test_whatever_is_wrong_a_thread_finds_it_out(
    mailbox: IMailbox, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    with opened(mailbox) as drop:
        with monkeypatch.context() as patch:
            patch.setattr(octets.os, "preadv", says(error))
            assert drop.whole(0) is None
        assert b"".join(drop.read(0)) == sent_form(delivery_of(1))


def test_a_part_of_a_message_is_not_taken_for_it(mailbox: IMailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pages of a file come into memory one by one, and go so."""
    preadv = os.preadv
    monkeypatch.setattr(octets.os, "preadv", lambda *given: min(preadv(*given), 40))
    with opened(mailbox) as drop:
        assert drop.whole(0) is None


def test_a_fifo_in_place_of_a_file_stops_nobody(tmp_path: Path) -> None:
    with store_at(tmp_path, "maildir") as store:
        mailbox = store.mailbox(ADA)
        deliver(mailbox, delivery_of(1))
        with opened(mailbox) as drop:
            (file,) = (tmp_path / "example.test" / "ada" / "new").iterdir()
            file.unlink()
            os.mkfifo(file)
            assert drop.whole(0) is None
            with pytest.raises(OSError, match="not a regular file"):
                drop.read(0)


def test_what_is_not_as_long_as_its_name_says_is_read_in_pieces(tmp_path: Path) -> None:
    with store_at(tmp_path, "maildir") as store:
        mailbox = store.mailbox(ADA)
        deliver(mailbox, delivery_of(1))
        with opened(mailbox) as drop:
            (file,) = (tmp_path / "example.test" / "ada" / "new").iterdir()
            file.write_bytes(file.read_bytes() + b"more\n")
            assert drop.whole(0) is None
            assert b"".join(drop.read(0)).endswith(b"more\r\n")
