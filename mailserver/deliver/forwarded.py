"""Forwards to other domains: a reverse-path of ours (SRS), and a mark that stops loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from twisted.internet.defer import Deferred, gatherResults
from zope.interface import implementer

from mailserver.deliver.header import with_other_head
from mailserver.interfaces import IDeliveryAgent
from mailserver.values.address import Address
from mailserver.values.envelope import Entry, Recipient
from mailserver.values.outcome import Outcome


@implementer(IDeliveryAgent)
class ForwardingAgent:
    """Stands before the relay: what an address of ours forwards to another domain leaves with a
    reverse-path of ours (SRS), so that SPF there passes, and with a mark that stops loops.

    ``rewritten`` gives that reverse-path for a sender and a domain, or ``None`` to leave it as it is.
    Reports of ours about such a recipient go to the sender, who is known here.
    """

    def __init__(self, inner: IDeliveryAgent, rewritten: Callable[[Address, str], Address | None]) -> None:
        self._inner = inner
        self._rewritten = rewritten

    def attempt(self, entry: Entry, recipients: Sequence[Recipient]) -> Deferred[Sequence[Outcome]]:
        """See ``IDeliveryAgent``."""
        forwards: dict[Address, list[Recipient]] = {}
        for one in recipients:
            if one.original is not one.address and one.original != one.address and not one.is_listed:
                forwards.setdefault(one.original, []).append(one)
        if not forwards:
            attempt: Deferred[Sequence[Outcome]] = self._inner.attempt(entry, recipients)
            return attempt
        through = {one.number for some in forwards.values() for one in some}
        direct = [one for one in recipients if one.number not in through]
        parts = [self._inner.attempt(entry, direct)] if direct else []
        parts += [self._forward(entry, address, some) for address, some in forwards.items()]
        return gatherResults(parts).addCallback(lambda found: [o for part in found for o in part])

    def _forward(
        self, entry: Entry, address: Address, recipients: list[Recipient]
    ) -> Deferred[Sequence[Outcome]]:
        mark = f"Delivered-To: {address}\r\n".encode() if address.domain else b""
        content = with_other_head(entry.content, 0, mark)
        sender = entry.envelope.reverse_path
        ours = self._rewritten(sender, address.domain) if sender.domain and address.domain else None
        envelope = replace(entry.envelope, reverse_path=ours) if ours is not None else entry.envelope
        attempt: Deferred[Sequence[Outcome]] = self._inner.attempt(
            replace(entry, envelope=envelope, content=content), recipients
        )
        return attempt
