"""Senders whose domain says that it takes no mail: an answer could never reach them (RFC 7505 §4.2)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Sequence
from typing import Protocol

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime

from mailserver.interfaces import LookupDelayed
from mailserver.values.address import domain_key
from mailserver.values.reply import Reply, reply
from mailserver.values.session import RecipientFacts
from mailserver.values.text import printable

REMEMBERED_SECONDS = 300.0
MOST_DOMAINS = 5000


class Resolver(Protocol):
    """Records as text, ``()`` where there are none."""

    def texts(self, name: str, record: str) -> Awaitable[Sequence[str]]:
        """Raises ``LookupDelayed``."""


class SenderDomains:
    """A rule: asks for the MX records of a stranger's reverse-path, and waits for ``seconds`` at most.

    What cannot be found out counts for nothing.
    """

    name = "null_mx_of_the_sender"

    def __init__(self, resolver: Resolver, clock: IReactorTime, seconds: float) -> None:
        self._resolver = resolver
        self._clock = clock
        self._seconds = seconds
        self._known: OrderedDict[str, tuple[float, bool]] = OrderedDict()

    def __call__(self, facts: RecipientFacts) -> Reply | Awaitable[Reply | None] | None:
        """550 5.7.27 for a domain with a null MX."""
        session, path = facts.transaction.session, facts.transaction.reverse_path
        known = session.account is not None or session.trusted or session.role != "smtp"
        if known or not path.domain or path.domain.startswith("["):
            return None
        domain = domain_key(path.domain)
        found = self._known.get(domain)
        if found is not None and self._clock.seconds() - found[0] < REMEMBERED_SECONDS:
            return _refusal(path.domain) if found[1] else None
        return self._ask(domain, path.domain)

    async def _ask(self, domain: str, shown: str) -> Reply | None:
        asking = Deferred.fromCoroutine(self._records(domain))
        asking.addTimeout(self._seconds, self._clock)
        try:
            records = await asking
        except (LookupDelayed, TimeoutError, ValueError):
            return None
        takes_none = list(records) == ["0 ."]
        self._known[domain] = self._clock.seconds(), takes_none
        if len(self._known) > MOST_DOMAINS:
            self._known.popitem(last=False)
        return _refusal(shown) if takes_none else None

    async def _records(self, domain: str) -> Sequence[str]:
        return await self._resolver.texts(domain, "MX")


def _refusal(domain: str) -> Reply:
    return reply(550, "5.7.27", f"The sender's domain {printable(domain)} takes no mail (null MX)")
