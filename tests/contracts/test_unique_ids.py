"""Unique ids stay what they are, on both formats, whatever happens to the mailbox."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailserver.durable import Disk
from mailserver.store.conversion import Conversion
from mailserver.store.mailboxes import Mailboxes
from mailserver.store.mailstore import MailStore
from mailserver.values.account import Account
from tests.store.deliveries import ADA, contents, deliver, delivery_of, opened, sent_form, store_at

OTHER = {"maildir": "mbox", "mbox": "maildir"}
Known = dict[bytes, str]


@pytest.fixture(params=["maildir", "mbox"])
def format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(format: str, tmp_path: Path) -> Iterator[MailStore]:
    with store_at(tmp_path, format) as made:
        deliver(made.mailbox(ADA), *(delivery_of(n) for n in range(6)))
        yield made


def ids(store: MailStore, format: str = "") -> Known:
    """The unique id of each message, by its octets."""
    with opened(store.mailbox(Account(ADA.address, format))) as drop:
        found = dict(zip(contents(drop), (listing.unique_id for listing in drop.listings), strict=True))
        assert len(set(found.values())) == len(found)
        return found


def test_a_restart(store: MailStore, format: str, tmp_path: Path) -> None:
    before = ids(store)
    store.stop()
    with store_at(tmp_path, format) as again:
        assert ids(again) == before


def test_being_seen_and_flagged(store: MailStore, format: str, tmp_path: Path) -> None:
    """From new to cur, and other flags each time; Status and X-Status in an mbox."""
    before = ids(store)
    folder = tmp_path / "example.test"
    for flags in ("", "S", "FRS", "ST"):
        if format == "maildir":
            maildir = folder / "ada"
            for path in [*(maildir / "new").iterdir(), *(maildir / "cur").iterdir()]:
                os.rename(path, maildir / "cur" / f"{path.name.partition(':')[0]}:2,{flags}")
        else:
            lines = (folder / "ada.mbox").read_text().split("\n")
            lines = [line for line in lines if not line.startswith(("Status:", "X-Status:", "X-UID:"))]
            at = [n for n, line in enumerate(lines) if line.startswith("Subject: ")]
            for n in reversed(at):
                lines[n + 1 : n + 1] = ["Status: RO", f"X-Status: {flags}", f"X-UID: {n}"]
            (folder / "ada.mbox").write_text("\n".join(lines))
        assert ids(store) == before


def test_the_removal_of_others_and_what_comes_afterwards(store: MailStore) -> None:
    before = ids(store)
    with opened(store.mailbox(ADA)) as drop:
        for index in (0, 2, 5):
            drop.mark(index)
        assert drop.commit() == 0
    deliver(store.mailbox(ADA), delivery_of(9))
    after = ids(store)
    new = after.pop(sent_form(delivery_of(9)))
    assert new not in before.values()
    assert after == {sent_form(delivery_of(n)): before[sent_form(delivery_of(n))] for n in (1, 3, 4)}


def test_conversion_there_and_back(store: MailStore, format: str, tmp_path: Path) -> None:
    before = ids(store)
    now = format
    for _ in range(3):
        mailboxes = Mailboxes(Disk(), f"{tmp_path}/example.test/ada", "mx.example.test")
        Conversion(mailboxes, OTHER[now], settle=0.0).run(now, lambda: None, lambda octets: None)
        now = OTHER[now]
        assert ids(store, now) == before
        deliver(store.mailbox(Account(ADA.address, now)), delivery_of(10))
        with opened(store.mailbox(Account(ADA.address, now))) as drop:
            drop.mark(len(drop.listings) - 1)
            assert drop.listings[-1].unique_id not in before.values()
            assert drop.commit() == 0
