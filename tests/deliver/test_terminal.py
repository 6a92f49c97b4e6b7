"""SOML and SAML: a terminal and the mailbox, whichever of them is there and works."""

from collections.abc import Iterable, Sequence

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailserver import maillog
from mailserver.deliver.terminal import TerminalAgent
from mailserver.interfaces import IDeliveryAgent
from mailserver.values.address import Address
from mailserver.values.content import MemoryContent
from mailserver.values.envelope import Entry, Envelope, Recipient, Waiting
from mailserver.values.outcome import Delivered, Outcome

ADA, BOB = Address("ada", "example.test"), Address("bob", "example.test")
SENDER = Address("carl", "example.test")


@implementer(IDeliveryAgent)
class Mailboxes:
    """Takes everything, and notes for whom."""

    def __init__(self) -> None:
        self.took: list[Address] = []

    def attempt(self, entry: Entry, recipients: Sequence[Recipient]) -> Deferred[Sequence[Outcome]]:
        self.took += [one.address for one in recipients]
        return succeed([Delivered(recipient=one, status="2.0.0", diagnostic="ok") for one in recipients])


def delivered(
    terminal: str, attached: Sequence[Address], attempts: int = 0
) -> tuple[list[Address], list[str]]:
    """Who got it into the mailbox, and by what way each was delivered; on ``attached`` it is shown."""
    mailboxes = Mailboxes()

    def show(address: Address, sender: Address, content: Iterable[bytes]) -> Deferred[bool]:
        assert sender == SENDER
        assert b"".join(content) == b"x\r\n"
        return succeed(address in attached)

    agent = TerminalAgent(mailboxes, show)
    assert verifyObject(IDeliveryAgent, agent)
    return mailboxes.took, [
        f"{one.recipient.address.local}:{one.relay}" for one in ran(agent, terminal, attempts)
    ]


def ran(agent: TerminalAgent, terminal: str, attempts: int = 0) -> Sequence[Outcome]:
    recipients = (Recipient(0, ADA, ADA), Recipient(1, BOB, BOB))
    envelope = Envelope(SENDER, recipients, terminal=terminal)
    entry = Entry(
        1, 0.0, envelope, tuple(Waiting(one, attempts) for one in recipients), MemoryContent(b"x\r\n")
    )
    found: list[Sequence[Outcome]] = []
    agent.attempt(entry, recipients).addCallback(found.append)
    assert len(found[0]) == 2
    return found[0]


def test_soml_goes_to_the_terminal_or_else_to_the_mailbox() -> None:
    assert delivered("SOML", [ADA]) == ([BOB], ["ada:terminal", "bob:none"])
    assert delivered("SOML", [ADA, BOB])[0] == []
    assert delivered("SOML", [])[0] == [ADA, BOB]


def test_saml_goes_to_the_mailbox_in_any_case() -> None:
    assert delivered("SAML", [ADA]) == ([ADA, BOB], ["ada:none", "bob:none"])


def test_another_attempt_shows_nothing_twice() -> None:
    assert delivered("SOML", [ADA, BOB], attempts=1)[0] == [ADA, BOB]


def test_ordinary_mail_asks_no_terminal() -> None:
    assert delivered("", [ADA, BOB])[0] == [ADA, BOB]


def test_a_terminal_that_fails_costs_nobody_his_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    faults: list[BaseException] = []
    monkeypatch.setattr(maillog, "fault", lambda what, error, *_: faults.append(error))
    mailboxes = Mailboxes()
    for terminal in ("SOML", "SAML"):
        ran(TerminalAgent(mailboxes, lambda *_: fail(OSError("gone"))), terminal)
    assert mailboxes.took == [ADA, BOB] * 2
    assert len(faults) == 4
