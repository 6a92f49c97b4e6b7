"""The MDA: each recipient here goes to its mailbox, or to where the administrator sends its mail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from mailserver import maillog
from mailserver.interfaces import IDeliveryAgent
from mailserver.values.account import Account, LocalUser, Resolution
from mailserver.values.address import Address
from mailserver.values.envelope import Entry, Recipient
from mailserver.values.outcome import Delayed, Outcome

MOST_AGENTS = 1000
"""Ways out that are remembered; each account may have one of its own."""


class Delivered(Protocol):
    """Who hears of deliveries to accounts with an out-of-office answer."""

    def __call__(self, entry: Entry, recipient: Recipient, account: Account, /) -> object: ...


@implementer(IDeliveryAgent)
class LocalAgent:
    """Sorts recipients by ``Account.deliver``; those without one go to ``mailboxes``.

    ``agent_of`` makes the way out that a text names; ``answer`` is told of each delivery to an account
    that is away.
    """

    def __init__(
        self,
        resolve: Callable[[Address], Resolution],
        mailboxes: IDeliveryAgent,
        agent_of: Callable[[str], IDeliveryAgent],
        answer: Delivered,
    ) -> None:
        self._resolve = resolve
        self._mailboxes = mailboxes
        self._agent_of = agent_of
        self._answer = answer
        self._agents: dict[str, IDeliveryAgent] = {}

    def attempt(self, entry: Entry, recipients: Sequence[Recipient]) -> Deferred[Sequence[Outcome]]:
        """See ``IDeliveryAgent``."""
        plain: list[Recipient] = []
        away: dict[int, Account] = {}
        others: dict[str, list[Recipient]] = {}
        for recipient in recipients:
            account = self._account(recipient)
            if account is not None and account.deliver:
                others.setdefault(account.deliver, []).append(recipient)
                continue
            plain.append(recipient)
            if account is not None and account.away is not None:
                away[recipient.number] = account
        if not others and not away:
            attempt: Deferred[Sequence[Outcome]] = self._mailboxes.attempt(entry, recipients)
            return attempt
        parts = [self._to(deliver, entry, some) for deliver, some in others.items()]
        if plain:
            parts.append(self._mailboxes.attempt(entry, plain).addCallback(self._delivered, entry, away))
        return gatherResults(parts).addCallback(lambda found: [o for part in found for o in part])

    def stop(self) -> None:
        """End what can be ended; what it was given waits for the next start."""
        for agent in self._agents.values():
            stop = getattr(agent, "stop", None)
            if stop is not None:
                stop()

    def _account(self, recipient: Recipient) -> Account | None:
        try:
            answer = self._resolve(recipient.address)
        except Exception:
            return None  # the mailboxes ask again, and say what is wrong
        return answer.account if isinstance(answer, LocalUser) else None

    def _to(self, deliver: str, entry: Entry, recipients: Sequence[Recipient]) -> Deferred[Sequence[Outcome]]:
        agent = self._agents.get(deliver)
        if agent is None:
            try:
                agent = self._agent_of(deliver)
            except Exception as error:
                maillog.misconfigured(f"delivery to {deliver!r}: {error}", entry.queue_id)
                return succeed(_later(recipients, "the way out that is named here cannot be used"))
            if len(self._agents) >= MOST_AGENTS:
                del self._agents[next(iter(self._agents))]
            self._agents[deliver] = agent
        try:
            attempt: Deferred[Sequence[Outcome]] = agent.attempt(entry, recipients)
        except Exception:
            attempt = Deferred()
            attempt.errback()

        def failed(failure: Failure) -> Sequence[Outcome]:
            # A user's own agent may do anything; its message waits.
            maillog.fault(f"delivery to {deliver!r}", failure.value, entry.queue_id)
            return _later(recipients, "the way out that is named here failed")

        return attempt.addCallback(_one_for_each, recipients).addErrback(failed)

    def _delivered(
        self, outcomes: Sequence[Outcome], entry: Entry, away: dict[int, Account]
    ) -> Sequence[Outcome]:
        for outcome in outcomes:
            account = away.get(outcome.recipient.number)
            if account is not None and outcome.status.startswith("2."):
                self._answer(entry, outcome.recipient, account)
        return outcomes


def _one_for_each(outcomes: Sequence[Outcome], recipients: Sequence[Recipient]) -> Sequence[Outcome]:
    """An agent that forgets somebody, or says two things of one, would lose or double mail."""
    found = [outcome.recipient.number for outcome in outcomes]
    if sorted(found) != sorted(recipient.number for recipient in recipients):
        raise ValueError(f"{len(recipients)} recipients and {len(found)} outcomes: expected one for each")
    return outcomes


def _later(recipients: Sequence[Recipient], why: str) -> Sequence[Outcome]:
    return [Delayed(recipient=one, status="4.3.5", diagnostic=why) for one in recipients]
