"""The MDA for SOML and SAML: to a terminal first, then to the mailbox where that is needed (RFC 821 §3.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from twisted.internet.defer import Deferred
from zope.interface import implementer

from mailserver import maillog
from mailserver.interfaces import IDeliveryAgent
from mailserver.values.address import Address
from mailserver.values.envelope import Entry, Recipient
from mailserver.values.outcome import Delivered, Outcome

Show = Callable[[Address, Address, Iterable[bytes]], Deferred[bool]]
"""Whose terminal, the sender, the content -> whether it was shown."""


@implementer(IDeliveryAgent)
class TerminalAgent:
    """Stands before the other local agents; messages that are not for terminals go straight through."""

    def __init__(self, others: IDeliveryAgent, show: Show) -> None:
        self._others = others
        self._show = show

    def attempt(self, entry: Entry, recipients: Sequence[Recipient]) -> Deferred[Sequence[Outcome]]:
        """See ``IDeliveryAgent``."""
        if not entry.envelope.terminal:
            there: Deferred[Sequence[Outcome]] = self._others.attempt(entry, recipients)
            return there
        return Deferred.fromCoroutine(self._attempt(entry, recipients))

    async def _attempt(self, entry: Entry, recipients: Sequence[Recipient]) -> Sequence[Outcome]:
        first = {waiting.recipient.number for waiting in entry.waiting if not waiting.attempts}
        # All at once: each terminal has its own time to answer.
        asked = [(one, self._ask(entry, one)) for one in recipients if one.number in first]
        shown = {one.number for one, answer in asked if await answer}
        if entry.envelope.terminal == "SAML":
            shown.clear()  # the mailbox gets it in any case
        outcomes: list[Outcome] = [
            Delivered(recipient=one, status="2.0.0", diagnostic="shown on a terminal", relay="terminal")
            for one in recipients
            if one.number in shown
        ]
        rest = [one for one in recipients if one.number not in shown]
        if rest:
            outcomes += await self._others.attempt(entry, rest)
        return outcomes

    def _ask(self, entry: Entry, recipient: Recipient) -> Deferred[bool]:
        async def ask() -> bool:
            try:
                return await self._show(
                    recipient.address, entry.envelope.reverse_path, entry.content.chunks()
                )
            except Exception as error:  # the mailbox is there for that
                maillog.fault("showing a message on a terminal", error, entry.queue_id)
                return False

        return Deferred.fromCoroutine(ask())
