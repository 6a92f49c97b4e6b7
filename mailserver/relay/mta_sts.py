"""MTA-STS: which hosts a domain names for its mail over HTTPS, kept on disk (RFC 8461)."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from mailserver.interfaces import LookupDelayed
from mailserver.relay.https import FetchFailed
from mailserver.relay.resolver import NameNotFound, Resolver
from mailserver.relay.sts_policy import PolicyMalformed, STSPolicy, parse_policy, record_id
from mailserver.values.text import printable

log = Logger(namespace="mail")

ASK_SECONDS = 3600.0
"""How often the record of a domain with a policy is looked at again."""
REFRESH_SECONDS = 86400.0
"""How old a policy gets before it is fetched again, changed or not (RFC 8461 §5.1, §10.2)."""
NOTHING_SECONDS = 600.0
"""How long "there is no policy" and "it cannot be fetched" are believed; RFC 8461 §3.3 asks for five
minutes at least between fetches that fail."""
REMEMBERED_DOMAINS = 10_000
FETCHES_AT_ONCE = 8
SWEEP_SECONDS = 3600.0


class IFetcher(Protocol):
    """What gets a policy's text: ``relay/https.py`` does."""

    def fetch_policy(self, domain: str) -> Deferred[bytes]:
        """The body of ``https://mta-sts.DOMAIN/.well-known/mta-sts.txt``. Fails with ``FetchFailed``."""


class IShelf(Protocol):
    """Where policies outlive us. Nothing here waits for it."""

    def keep(self, domain: str, policy: STSPolicy) -> None:
        """Write a policy down, soon."""

    def forget(self, domain: str) -> None:
        """Remove what was written down."""


class _Known:
    """What is known of one domain; ``policy`` is ``None`` when there is none. ``ask_at`` and
    ``fetched`` in seconds since the epoch."""

    __slots__ = ("ask_at", "policy", "trouble")

    def __init__(
        self, policy: STSPolicy | None, ask_at: float, trouble: tuple[str, str] | None = None
    ) -> None:
        self.policy = policy
        self.ask_at = ask_at
        self.trouble = trouble


class MTASTS:
    """Policies of other domains.

    A policy that has not expired is used whatever DNS or HTTPS say meanwhile (RFC 8461 §5.1): it is
    looked at again behind the sender's back.  Only a domain of which nothing is known makes its first
    message wait for DNS and, if it has the record, for HTTPS.
    """

    def __init__(
        self,
        reactor: Any,
        resolver: Resolver,
        fetcher: IFetcher,
        shelf: IShelf,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._reactor = reactor
        self._resolver = resolver
        self._fetcher = fetcher
        self._shelf = shelf
        self._now = now
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._asking: dict[str, list[Deferred[STSPolicy | None]]] = {}
        self._turns = DeferredSemaphore(FETCHES_AT_ONCE)
        self._sweeping: IDelayedCall | None = None

    def start(self, kept: Sequence[tuple[str, STSPolicy]] = ()) -> None:
        """Begin with what was kept; each is looked at again when mail goes there, or soon."""
        now = self._now()
        for domain, policy in kept:
            if policy.expires > now:
                self._remember(domain, _Known(policy, now))
        self._sweeping = self._reactor.callLater(SWEEP_SECONDS, self._sweep)

    def stop(self) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None

    def policy(self, domain: str) -> Deferred[STSPolicy | None] | STSPolicy | None:
        """The policy of ``domain`` (A-labels, lower case), of mode ``enforce`` or ``testing``; ``None``
        for none. A Deferred only where nothing is known yet; it never fails."""
        now = self._now()
        known = self._known.get(domain)
        if known is not None and known.policy is not None and known.policy.expires <= now:
            known = None
        if known is None or (known.policy is None and known.ask_at <= now):
            return self._asked(domain)
        self._known.move_to_end(domain)
        if known.ask_at <= now:
            self._asked(domain)
        return _in_force(known.policy)

    def trouble(self, domain: str) -> tuple[str, str] | None:
        """Why the domain's policy could not be had, as a result type of RFC 8460 §4.3 and words."""
        known = self._known.get(domain)
        return known.trouble if known is not None else None

    def doubt(self, domain: str) -> None:
        """Mail could not be sent under the policy: look soon whether there is a newer one, at most
        every few minutes (RFC 8461 §5.1)."""
        known = self._known.get(domain)
        if known is None or known.policy is None:
            return
        if self._now() - known.policy.fetched > NOTHING_SECONDS:
            known.policy = known.policy.doubted()
            known.ask_at = min(known.ask_at, self._now())

    # Asking --------------------------------------------------------------------------------------

    def _asked(self, domain: str) -> Deferred[STSPolicy | None]:
        """The answer to a question that is asked once, however many wait for it."""
        waiting: Deferred[STSPolicy | None] = Deferred()
        others = self._asking.get(domain)
        if others is not None:
            others.append(waiting)
            return waiting
        self._asking[domain] = [waiting]
        Deferred.fromCoroutine(self._ask(domain)).addBoth(self._answered, domain)
        return waiting

    def _answered(self, result: object, domain: str) -> None:
        known = self._known.get(domain)
        policy = known.policy if known is not None else None
        for waiting in self._asking.pop(domain):
            waiting.callback(_in_force(policy))

    async def _ask(self, domain: str) -> None:
        """Look at the record and, where that says so, at the policy; what comes of it is remembered."""
        known = self._known.get(domain)
        old = known.policy if known is not None else None
        now = self._now()
        if old is not None and old.expires <= now:
            self._shelf.forget(domain)
            old = None
        try:
            current = await self._record_id(domain)
        except LookupDelayed as error:
            self._failed(domain, old, "sts-policy-fetch-error", str(error))
            return
        if not current:
            # The record alone takes nothing back: a thief of DNS could do that (RFC 8461 §5.1).
            self._remember(domain, _Known(old, now + (ASK_SECONDS if old else NOTHING_SECONDS)))
            return
        if old is not None and old.id == current and now - old.fetched < REFRESH_SECONDS:
            self._remember(domain, _Known(old, now + ASK_SECONDS))
            return
        await self._fetch(domain, current, old)

    async def _record_id(self, domain: str) -> str:
        try:
            answer = await self._resolver.lookup(f"_mta-sts.{domain}", "TXT")
        except NameNotFound:
            return ""
        return record_id([b"".join(record.strings) for record in answer.rrset or ()])

    async def _fetch(self, domain: str, current: str, old: STSPolicy | None) -> None:
        try:
            text = await self._turns.run(self._fetcher.fetch_policy, domain)
            policy = parse_policy(text, current, self._now())
        except FetchFailed as error:
            self._failed(domain, old, error.kind, str(error))
        except PolicyMalformed as error:
            self._failed(domain, old, "sts-policy-invalid", str(error))
        else:
            self._remember(domain, _Known(policy, self._now() + min(ASK_SECONDS, policy.max_age)))
            self._shelf.keep(domain, policy)

    def _failed(self, domain: str, old: STSPolicy | None, kind: str, reason: str) -> None:
        log.warn(
            "warning: MTA-STS policy of {domain}: {reason}; {what}",
            domain=printable(domain),
            reason=printable(reason),
            what="the one we have stays in force" if old else "mail goes there without one",
        )
        self._remember(domain, _Known(old, self._now() + NOTHING_SECONDS, (kind, reason)))

    # Memory --------------------------------------------------------------------------------------

    def _remember(self, domain: str, known: _Known) -> None:
        self._known[domain] = known
        self._known.move_to_end(domain)
        if len(self._known) > REMEMBERED_DOMAINS:
            gone, dropped = self._known.popitem(last=False)
            if dropped.policy is not None:
                self._shelf.forget(gone)

    def _sweep(self) -> None:
        """Fetch again what grows old, also where no mail goes just now (RFC 8461 §10.2)."""
        self._sweeping = self._reactor.callLater(SWEEP_SECONDS, self._sweep)
        now = self._now()
        for domain, known in list(self._known.items()):
            policy = known.policy
            if policy is None:
                if known.ask_at <= now:
                    del self._known[domain]
            elif policy.expires <= now:
                del self._known[domain]
                self._shelf.forget(domain)
            elif now - policy.fetched >= REFRESH_SECONDS:
                self._asked(domain)


def _in_force(policy: STSPolicy | None) -> STSPolicy | None:
    return policy if policy is not None and policy.mode != "none" else None
