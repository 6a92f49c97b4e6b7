"""Messages that are older than they are kept go, through the trash, and no others do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mailserver.durable import Disk
from mailserver.interfaces import IMailbox
from mailserver.store.mailstore import MailStore
from mailserver.store.paths import MBOX
from mailserver.store.trash import deletions
from tests.store.deliveries import ADA, contents, deliver, delivery_of, opened, sent_form

DAY = 86400.0
NOW = delivery_of(0).arrived + 100 * DAY


@pytest.fixture(params=["maildir", "mbox"])
def format(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def told() -> list[tuple[str, int]]:
    return []


@pytest.fixture
def store(tmp_path: Path, format: str, told: list[tuple[str, int]]) -> Iterator[MailStore]:
    made = MailStore(
        tmp_path,
        format,
        Disk(),
        "mx.example.test",
        undelete_for=DAY,
        expire_after=90 * DAY,
        expired=lambda mailbox, count: told.append((mailbox, count)),
    )
    made.start()
    yield made
    made.stop()


@pytest.fixture
def mailbox(store: MailStore) -> IMailbox:
    """Ten days apart: 100, 90, 80 … days old at ``NOW``; the second is kept to the very second."""
    mailbox = store.mailbox(ADA)
    for n in range(5):
        deliver(mailbox, replace(delivery_of(n), arrived=NOW - (100 - 10 * n) * DAY))
    return mailbox


def path_of(root: Path, format: str) -> str:
    return str(root / "example.test" / ("ada" if format == "maildir" else "ada" + MBOX))


def test_the_old_go_and_nothing_else(
    store: MailStore, mailbox: IMailbox, tmp_path: Path, format: str, told: list[tuple[str, int]]
) -> None:
    path = path_of(tmp_path, format)
    for _ in range(2):
        store._sweep(path, NOW)
        with opened(mailbox) as drop:
            assert contents(drop) == [sent_form(delivery_of(n)) for n in range(1, 5)]
    assert told == [(path.removeprefix(f"{tmp_path}/"), 1)]
    assert deletions(path), "what goes can be brought back"
    assert store.undelete(ADA, 0.0) == 1


def test_a_mailbox_in_use_waits_for_the_next_sweep(
    store: MailStore, mailbox: IMailbox, tmp_path: Path, format: str
) -> None:
    with opened(mailbox) as drop:
        store._sweep(path_of(tmp_path, format), NOW)
        assert contents(drop) == [sent_form(delivery_of(n)) for n in range(5)]
    store._sweep(path_of(tmp_path, format), NOW + 11 * DAY)
    with opened(mailbox) as drop:
        assert len(drop.listings) == 2


def test_nothing_is_made_where_nothing_lies(store: MailStore, tmp_path: Path) -> None:
    folder = tmp_path / "example.test" / "somebody"
    folder.mkdir(parents=True)
    store._sweep(str(folder), NOW)
    assert list(folder.iterdir()) == []


def test_a_maildir_name_that_tells_no_time(
    store: MailStore, mailbox: IMailbox, tmp_path: Path, format: str
) -> None:
    if format == "mbox":
        return
    new = tmp_path / "example.test" / "ada" / "new"
    for name, age in (("old", 91), ("young", 89)):
        (new / name).write_bytes(b"Subject: x\n\n")
        os.utime(new / name, (NOW - age * DAY, NOW - age * DAY))
    store._sweep(str(new.parent), NOW)
    assert not (new / "old").exists()
    assert (new / "young").exists()
