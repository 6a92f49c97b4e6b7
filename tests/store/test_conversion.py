"""A mailbox goes from one format to the other: ids, flags and octets stay, whenever it is killed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from mailserver.durable import Disk, DurableFile, StrPath
from mailserver.interfaces import MaildropInUse
from mailserver.store.conversion import Conversion, ConversionRefused
from mailserver.store.mailboxes import Mailboxes
from mailserver.store.mailstore import MailStore
from mailserver.values.account import Account
from tests.store.deliveries import (
    ADA,
    content_of,
    contents,
    deliver,
    delivery_of,
    opened,
    sent_form,
    store_at,
)

OTHER = {"maildir": "mbox", "mbox": "maildir"}
BODIES = [
    b"From me\r\n>From you\r\n",
    b"",
    b"no end",
    "Üç نامه Київ\r\n".encode(),
    b"\r\n\r\nFrom a b\r\n\r\n",
]


@pytest.fixture(params=["maildir", "mbox"])
def format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MailStore]:
    with store_at(tmp_path, "maildir") as made:
        yield made


def ada(format: str) -> Account:
    return Account(ADA.address, format)


def mailboxes_at(root: Path, disk: Disk | None = None, patience: float = 0.2) -> Mailboxes:
    return Mailboxes(disk or Disk(), f"{root}/example.test/ada", "mx.example.test", patience)


def convert(mailboxes: Mailboxes, to: str, change: Callable[[], None] = lambda: None, now: str = "") -> int:
    conversion = Conversion(mailboxes, to, settle=0.0)
    return conversion.run(now or OTHER[to], change, lambda octets: None).messages


def seen(store: MailStore, format: str) -> list[tuple[str, int, bytes]]:
    """Unique id, size and octets of each message."""
    with opened(store.mailbox(ada(format))) as drop:
        pairs = zip(drop.listings, contents(drop), strict=True)
        return [(listing.unique_id, listing.octets, octets) for listing, octets in pairs]


def fill(store: MailStore, format: str) -> list[tuple[str, int, bytes]]:
    deliver(
        store.mailbox(ada(format)), *(delivery_of(n, content_of(n, body)) for n, body in enumerate(BODIES))
    )
    return seen(store, format)


def test_everything_stays_there_and_back(tmp_path: Path, store: MailStore, format: str) -> None:
    before = fill(store, format)
    for to in (OTHER[format], format, OTHER[format]):
        assert convert(mailboxes_at(tmp_path), to) == len(BODIES)
        assert seen(store, to) == before
        assert not os.path.exists(mailboxes_at(tmp_path).path(OTHER[to]))
    # What is delivered afterwards has an id of its own, and the others keep theirs.
    deliver(store.mailbox(ada(to)), delivery_of(77))
    after = seen(store, to)
    assert after[:-1] == before
    assert after[-1][2] == sent_form(delivery_of(77))
    assert after[-1][0] not in {identity for identity, _, _ in before}


def test_flags_go_with_the_messages(tmp_path: Path, store: MailStore) -> None:
    deliver(store.mailbox(ada("maildir")), *(delivery_of(n) for n in range(4)))
    maildir = tmp_path / "example.test" / "ada"
    for name, flags in zip(sorted(os.listdir(maildir / "new")), ("FRS", "", "T", None), strict=True):
        if flags is not None:
            os.rename(maildir / "new" / name, maildir / "cur" / f"{name}:2,{flags}")
    before = seen(store, "maildir")
    convert(mailboxes_at(tmp_path), "mbox")
    text = (tmp_path / "example.test" / "ada.mbox").read_text()
    assert [
        text.count(f"\n{line}\n") for line in ("Status: RO", "Status: O", "X-Status: AF", "X-Status: D")
    ] == [
        1,
        2,
        1,
        1,
    ]
    convert(mailboxes_at(tmp_path), "maildir")
    assert seen(store, "maildir") == before
    assert sorted(name.partition(":")[2] for name in os.listdir(maildir / "cur")) == ["2,", "2,FRS", "2,T"]
    assert len(os.listdir(maildir / "new")) == 1


def test_what_is_delivered_meanwhile_comes_along(tmp_path: Path, store: MailStore, format: str) -> None:
    """The server goes on with the old format until it hears of the change."""
    before = fill(store, format)
    late = delivery_of(50)
    convert(mailboxes_at(tmp_path), OTHER[format], lambda: deliver(store.mailbox(ada(format)), late))
    after = seen(store, OTHER[format])
    assert after[:-1] == before
    assert after[-1][2] == sent_form(late)


def test_a_pop3_session_is_not_disturbed(tmp_path: Path, store: MailStore, format: str) -> None:
    before = fill(store, format)
    with opened(store.mailbox(ada(format))), pytest.raises(MaildropInUse):
        convert(mailboxes_at(tmp_path), OTHER[format])
    assert seen(store, format) == before


def test_mail_in_both_formats_is_not_mixed_up(tmp_path: Path, store: MailStore, format: str) -> None:
    before = fill(store, format)
    deliver(store.mailbox(ada(OTHER[format])), delivery_of(60))
    with pytest.raises(ConversionRefused, match="mail in"):
        convert(mailboxes_at(tmp_path), OTHER[format])
    assert seen(store, format) == before
    assert [octets for _, _, octets in seen(store, OTHER[format])] == [sent_form(delivery_of(60))]


def test_what_lies_in_the_other_format_is_brought_over(tmp_path: Path, store: MailStore, format: str) -> None:
    """As when ``store.format`` was changed: the account has the new format, its mail the old one."""
    before = fill(store, format)
    deliver(store.mailbox(ada(OTHER[format])), delivery_of(60))
    assert convert(mailboxes_at(tmp_path), OTHER[format], now=OTHER[format]) == len(BODIES)
    after = seen(store, OTHER[format])
    assert sorted(after)[: len(after)] == sorted([*before, *(m for m in after if m not in before)])
    assert len(after) == len(BODIES) + 1
    assert convert(mailboxes_at(tmp_path), OTHER[format], now=OTHER[format]) == 0


def test_folders_of_a_maildir_stay(tmp_path: Path, store: MailStore) -> None:
    before = fill(store, "maildir")
    sent = tmp_path / "example.test" / "ada" / ".Sent" / "cur"
    sent.mkdir(parents=True)
    (sent / "1.a.b:2,S").write_text("Subject: sent\n\n")
    conversion = Conversion(mailboxes_at(tmp_path), "mbox", settle=0.0)
    assert conversion.run("maildir", lambda: None, lambda octets: None).folders == (".Sent",)
    assert seen(store, "mbox") == before
    assert (sent / "1.a.b:2,S").exists()
    convert(mailboxes_at(tmp_path), "maildir")
    assert seen(store, "maildir") == before


class _Killed(BaseException):
    """Nobody catches it, so nothing is tidied up by those that only tidy after errors."""


class KillingDisk(Disk):
    """Ends after so many changes, and does nothing any more: as a process that was killed."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def _step(self) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise _Killed

    def create(self, path: StrPath) -> DurableFile:
        self._step()
        return super().create(path)

    def rename(self, old: StrPath, new: StrPath) -> None:
        self._step()
        super().rename(old, new)

    def remove(self, path: StrPath) -> None:
        self._step()
        super().remove(path)


def test_killed_at_every_step_it_loses_nothing(tmp_path: Path, format: str) -> None:
    """And the same command, given again, ends what the first one began."""
    steps = 0
    while True:
        root = tmp_path / str(steps)
        with store_at(root, "maildir") as store:
            before = fill(store, format)
            now = [format]
            disk = KillingDisk(steps)
            mailboxes = mailboxes_at(root, disk)
            try:
                convert(mailboxes, OTHER[format], partial(now.__setitem__, 0, OTHER[format]))
                break
            except _Killed:
                disk.steps = 10**9
            # Whatever the account's format is now, all of its mail is there.
            assert seen(store, now[0]) == before
            if now[0] == format:  # one message is read and removed before somebody tries again
                with opened(store.mailbox(ada(format))) as drop:
                    drop.mark(0)
                    assert drop.commit() == 0
                del before[0]
            convert(mailboxes_at(root), OTHER[format], now=now[0])
            assert seen(store, OTHER[format]) == before
            assert not os.path.exists(mailboxes.path(format))
            assert not [name for name in os.listdir(root / "example.test") if "converting" in name]
        steps += 1
    assert steps > 10
