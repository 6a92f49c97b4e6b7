"""The MDA's choice: mailbox, or where the administrator sends an account's mail."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, fail, succeed
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from mailserver.deliver.discard import DiscardAgent
from mailserver.deliver.local import LocalAgent
from mailserver.interfaces import IDeliveryAgent
from mailserver.values.account import Account, Away, LocalUser, Resolution
from mailserver.values.address import Address
from mailserver.values.envelope import Entry, Recipient
from mailserver.values.outcome import Delayed, Delivered, Outcome
from tests.deliver.test_command import entry_of, people


@implementer(IDeliveryAgent)
class Mailboxes:
    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def attempt(self, entry: Entry, recipients: Sequence[Recipient]) -> Deferred[Sequence[Outcome]]:
        self.asked.append([one.number for one in recipients])
        return succeed([Delivered(recipient=r, status="2.0.0", diagnostic="kept") for r in recipients])


@implementer(IDeliveryAgent)
class Wrong:
    """What a user's own agent may do."""

    def __init__(self, what: str) -> None:
        self.what = what

    def attempt(self, entry: Entry, recipients: Sequence[Recipient]) -> Deferred[Sequence[Outcome]]:
        if self.what == "raise":
            raise RuntimeError("a bug")
        if self.what == "fail":
            return fail(RuntimeError("a bug"))
        one = Delivered(recipient=recipients[0], status="2.0.0", diagnostic="kept")
        return succeed([one, one] if self.what == "twice" else [])


class LocalCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.mailboxes = Mailboxes()
        self.made: list[str] = []
        self.answered: list[int] = []
        self.agent = LocalAgent(
            self.resolve,
            self.mailboxes,
            self.agent_of,
            lambda entry, recipient, account: self.answered.append(recipient.number),
        )

    def resolve(self, address: Address) -> Resolution:
        return LocalUser(self.accounts.get(address.local, Account(address)))

    def agent_of(self, deliver: str) -> IDeliveryAgent:
        self.made.append(deliver)
        if deliver == "agent:none":
            raise LookupError("there is none")
        return DiscardAgent() if deliver == ":discard:" else Wrong(deliver)

    def outcomes(self, count: int) -> list[Outcome]:
        everybody = people(count)
        found = self.successResultOf(self.agent.attempt(entry_of(*everybody), everybody))
        return sorted(found, key=lambda one: one.recipient.number)

    def own(self, name: str, deliver: str = "", away: Away | None = None) -> None:
        self.accounts[name] = Account(Address(name, "example.test"), deliver=deliver, away=away)

    def test_each_goes_its_way_and_ways_are_made_once(self) -> None:
        self.own("u1", ":discard:")
        self.own("u2", ":discard:")
        for _ in range(2):
            outcomes = self.outcomes(4)
            assert [one.diagnostic for one in outcomes] == ["kept", "discarded", "discarded", "kept"]
        assert self.mailboxes.asked == [[0, 3], [0, 3]]
        assert self.made == [":discard:"]

    def test_without_any_the_mailboxes_get_what_came(self) -> None:
        self.outcomes(2)
        assert self.mailboxes.asked == [[0, 1]]

    def test_whatever_an_own_agent_does_its_mail_waits_and_nobody_elses(self) -> None:
        for wrong in ("raise", "fail", "twice", "nothing", "agent:none"):
            self.own("u0", wrong)
            outcomes = self.outcomes(2)
            assert [type(one) for one in outcomes] == [Delayed, Delivered], wrong
            self.flushLoggedErrors(RuntimeError, ValueError)

    def test_who_is_away_is_told_of_what_was_delivered(self) -> None:
        self.own("u1", away=Away("gone"))
        self.outcomes(3)
        assert self.answered == [1]
