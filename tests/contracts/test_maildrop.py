"""What every IMaildrop does, run on Maildir and mbox."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from zope.interface.verify import verifyObject

from mailserver.interfaces import IMailbox, IMaildrop
from mailserver.store.mailstore import MailStore
from tests.store.deliveries import ADA, contents, deliver, delivery_of, opened, sent_form, store_at


@pytest.fixture(params=["maildir", "mbox"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MailStore]:
    with store_at(tmp_path / "mail", request.param) as made:
        yield made


@pytest.fixture
def mailbox(store: MailStore) -> IMailbox:
    mailbox = store.mailbox(ADA)
    deliver(mailbox, *(delivery_of(n) for n in range(5)))
    return mailbox


def test_it_provides_the_interface(mailbox: IMailbox) -> None:
    with opened(mailbox) as drop:
        verifyObject(IMaildrop, drop)


def test_sizes_are_the_octets_that_are_sent(mailbox: IMailbox) -> None:
    with opened(mailbox) as drop:
        assert [listing.octets for listing in drop.listings] == [len(octets) for octets in contents(drop)]


def test_unique_ids_are_legal_distinct_and_stay(mailbox: IMailbox) -> None:
    with opened(mailbox) as drop:
        before = [listing.unique_id for listing in drop.listings]
        drop.mark(1)
        drop.commit()
    assert len(set(before)) == 5
    for identity in before:
        assert 1 <= len(identity) <= 70
        assert all(0x21 <= ord(c) <= 0x7E for c in identity)
    deliver(mailbox, delivery_of(9))
    with opened(mailbox) as drop:
        after = [listing.unique_id for listing in drop.listings]
    assert after[:4] == [before[0], *before[2:]]
    assert after[4] not in before


def test_only_commit_removes(mailbox: IMailbox) -> None:
    with opened(mailbox) as drop:
        drop.mark(0)
        drop.release()
        drop.release()
    with opened(mailbox) as drop:
        assert len(drop.listings) == 5
        assert drop.marked == set()


def test_marks_can_be_taken_back(mailbox: IMailbox) -> None:
    with opened(mailbox) as drop:
        drop.mark(0)
        drop.mark(3)
        assert drop.marked == {0, 3}
        drop.unmark_all()
        drop.mark(4)
        assert drop.commit() == 0
    with opened(mailbox) as drop:
        assert contents(drop) == [sent_form(delivery_of(n)) for n in range(4)]


@pytest.mark.parametrize("index", [-1, 5])
def test_there_is_no_marking_what_is_not_there(mailbox: IMailbox, index: int) -> None:
    with opened(mailbox) as drop, pytest.raises(IndexError):
        drop.mark(index)


def test_everything_can_go(mailbox: IMailbox) -> None:
    with opened(mailbox) as drop:
        for index in range(5):
            drop.mark(index)
        assert drop.commit() == 0
    with opened(mailbox) as drop:
        assert list(drop.listings) == []
    deliver(mailbox, delivery_of(7))
    with opened(mailbox) as drop:
        assert contents(drop) == [sent_form(delivery_of(7))]
