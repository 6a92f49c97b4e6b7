"""Delivery before the answer: which messages, and what becomes of what it leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from mailserver import maillog
from mailserver.dispatch.at_once import MOST_RECIPIENTS, AtOnce
from mailserver.interfaces import IDeliveryAgent
from mailserver.values.account import Account, Elsewhere, LocalUser, NoSuchUser, Resolution
from mailserver.values.address import Address, address_from
from mailserver.values.content import MemoryContent
from mailserver.values.envelope import Entry, Envelope, Recipient, Waiting
from mailserver.values.outcome import Delayed, Delivered, Outcome


class Directory:
    """Ours is example.test; ``slow`` has a mailbox that may have to wait, ``broken`` cannot be read."""

    def resolve(self, address: Address) -> Resolution:
        if address.domain != "example.test":
            return Elsewhere(address)
        if address.local == "broken":
            raise OSError("the directory's disk is gone")
        return NoSuchUser(address) if address.local == "nobody" else LocalUser(Account(address))


@implementer(IDeliveryAgent)
class Mailboxes:
    """Delivers, but to ``full``."""

    def __init__(self) -> None:
        self.asked: list[Entry] = []

    def attempt(self, entry: Entry, recipients: Sequence[Recipient]) -> Deferred[Sequence[Outcome]]:
        self.asked.append(entry)
        return succeed([self._outcome(recipient) for recipient in recipients])

    def _outcome(self, recipient: Recipient) -> Outcome:
        kind = Delayed if recipient.address.local == "full" else Delivered
        return kind(recipient=recipient, status="2.0.0", diagnostic="as the test wants it")


@pytest.fixture
def mailboxes() -> Mailboxes:
    return Mailboxes()


@pytest.fixture
def at_once(mailboxes: Mailboxes) -> AtOnce:
    return AtOnce(Directory(), mailboxes, lambda account: account.address.local != "slow", lambda: 1000.0)


def entry(*addresses: str, **envelope: object) -> Entry:
    recipients = tuple(
        Recipient(number, address_from(one), address_from(one)) for number, one in enumerate(addresses)
    )
    made = replace(Envelope(address_from("eve@b.test"), recipients), **envelope)  # type: ignore[arg-type]
    waiting = tuple(Waiting(one) for one in recipients)
    return Entry(1 << 30, 999.0, made, waiting, MemoryContent(b"Subject: a\r\n\r\n"))


def left_of(at_once: AtOnce, message: Entry, accepted: Callable[[Entry], None]) -> list[str]:
    attempt = at_once.attempt(message, accepted)
    assert attempt is not None
    found: list[Sequence[Recipient]] = []
    attempt.addCallback(found.append)
    return [str(one.address) for one in found[0]]


def test_mailboxes_here_get_their_mail_and_nobody_is_left(
    at_once: AtOnce, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(maillog, "attempted", lambda entry, outcomes, *_: told.append("attempted"))
    monkeypatch.setattr(maillog, "removed", lambda entry: told.append("removed"))
    message = entry("ada@example.test", "bob@example.test")
    assert left_of(at_once, message, lambda entry: told.append("accepted")) == []
    assert told == ["accepted", "attempted", "removed"]


def test_whoever_was_not_delivered_to_is_left_and_the_message_is_not_accepted_yet(at_once: AtOnce) -> None:
    accepted: list[Entry] = []
    message = entry("ada@example.test", "full@example.test")
    assert left_of(at_once, message, accepted.append) == ["full@example.test"]
    assert not accepted


@pytest.mark.parametrize(
    "message",
    [
        entry("ada@example.test", "carl@b.test"),
        entry("nobody@example.test"),
        entry("slow@example.test"),
        entry("broken@example.test"),
        entry("ada@example.test", hold="for the postmaster to look at"),
        entry("ada@example.test", release_at=2000.0),
        entry("ada@example.test", deliver_by=2000.0, by_mode="R"),
        entry("ada@example.test", terminal="SAML"),
        entry(*(f"user{n}@example.test" for n in range(MOST_RECIPIENTS + 1))),
    ],
    ids=["elsewhere", "nobody", "slow", "broken", "held", "later", "by", "terminal", "many"],
)
def test_other_messages_go_through_the_spool(at_once: AtOnce, mailboxes: Mailboxes, message: Entry) -> None:
    assert at_once.attempt(message, lambda entry: None) is None
    assert not mailboxes.asked


def test_a_sender_who_wants_a_report_gets_it_from_the_spools_way(at_once: AtOnce) -> None:
    address = address_from("ada@example.test")
    wanted = (Recipient(0, address, address, notify=frozenset({"SUCCESS"})),)
    assert at_once.attempt(entry("ada@example.test", recipients=wanted), lambda entry: None) is None
