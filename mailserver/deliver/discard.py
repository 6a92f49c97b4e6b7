"""The way out for what nobody wants to keep."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from mailserver.interfaces import IDeliveryAgent
from mailserver.values.envelope import Entry, Recipient
from mailserver.values.outcome import Delivered, Outcome


@implementer(IDeliveryAgent)
class DiscardAgent:
    """Takes everything and keeps nothing; the log says so."""

    def attempt(self, entry: Entry, recipients: Sequence[Recipient]) -> Deferred[Sequence[Outcome]]:
        """See ``IDeliveryAgent``."""
        return succeed(
            [
                Delivered(recipient=r, status="2.0.0", diagnostic="discarded", relay="discard")
                for r in recipients
            ]
        )
