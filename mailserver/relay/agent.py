"""The delivery agent for other servers: one entry's recipients, grouped, sent, and accounted for."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError, fail, gatherResults
from zope.interface import implementer

from mailserver import maillog
from mailserver.interfaces import IMailExchanges, IRelay, LookupDelayed, NoExchange
from mailserver.relay.batch import Batch, Ledger, fit_to_say
from mailserver.relay.carrying import Carrier
from mailserver.relay.destinations import TOTAL, Destinations, Key, Pace
from mailserver.relay.dialling import Dialler
from mailserver.relay.express import Express
from mailserver.relay.fitting import as_international_as_it_is
from mailserver.relay.memory import HostMemory
from mailserver.relay.next_hops import Demands, Hop, NextHops
from mailserver.relay.outcomes import delayed_here, failed_here
from mailserver.relay.routes import RouteTable
from mailserver.relay.tls import ClientTLS
from mailserver.values.address import domain_key
from mailserver.values.envelope import Entry, Recipient
from mailserver.values.outcome import SERVER_STOPS, STOPPING, Outcome

BATCH = 100
"""Recipients in one transaction; every server takes as many (RFC 5321 §4.5.3.1.8)."""
DRAIN_SECONDS = 20.0
"""How long ``stop`` lets transactions finish."""


@implementer(IRelay)
class RelayAgent:
    """Sends to other servers by SMTP."""

    def __init__(
        self,
        reactor: Any,
        exchanges: IMailExchanges,
        hostname: str,
        pace: Pace | None = None,
        total: int = TOTAL,
        routes: RouteTable | None = None,
        demands: Demands | None = None,
        tls: ClientTLS | None = None,
        in_thread: Callable[..., Awaitable[Any]] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """``hostname`` is what EHLO says; ``pace`` the usual limits of a destination, ``total`` those of
        all; ``in_thread`` runs a function elsewhere, for content that must be re-encoded."""
        self._reactor = reactor
        self.next_hops = NextHops(exchanges, routes, demands)
        self.destinations = Destinations(reactor, pace, total)
        self.dialler = Dialler(reactor, tls or ClientTLS(), HostMemory(reactor))
        self._carrier = Carrier(
            reactor, domain_key(hostname), self.destinations, self.dialler, demands, in_thread, now
        )
        self._express = Express(reactor, self.destinations, self._carrier)
        self.last = self._carrier.last
        """The last attempt at each destination that went wrong, for who asks."""
        self._looking: set[Deferred[Hop]] = set()

    def start(self) -> None:
        """Begin to serve; nothing is opened before the first message."""
        self._carrier.is_stopping = False

    def stop(self) -> Deferred[None]:
        """Fires when all sessions are closed: idle ones at once, busy ones when their transaction
        ends, at most ``DRAIN_SECONDS`` from now. What is attempted meanwhile is Delayed."""
        return Deferred.fromCoroutine(self._stop())

    def attempt(self, entry: Entry, recipients: Sequence[Recipient]) -> Deferred[Sequence[Outcome]]:
        """Try once; exactly one outcome for each recipient. Never fails."""
        ledger: Ledger = {}
        if len(recipients) != 1 or entry.envelope.smtputf8 or not fit_to_say(entry, recipients, ledger):
            return Deferred.fromCoroutine(self._attempt(entry, recipients))
        attempts = _attempts(entry)
        found = self._find(entry, domain_key(recipients[0].address.domain), attempts)
        if not isinstance(found, Hop):
            return Deferred.fromCoroutine(self._attempt(entry, recipients, found=found))
        batch = Batch(entry, found, list(recipients), ledger, attempts, self._reactor.seconds())
        return self._express.send(batch).addCallback(_outcomes, recipients, ledger)

    def attempt_each(
        self, entry: Entry, recipients: Sequence[Recipient], told: Callable[[Sequence[Outcome]], None]
    ) -> Deferred[Sequence[Outcome]]:
        """The same, with ``told`` hearing of each transaction when it is over."""
        return Deferred.fromCoroutine(self._attempt(entry, recipients, told))

    # The attempt ---------------------------------------------------------------------------------

    async def _attempt(
        self,
        entry: Entry,
        recipients: Sequence[Recipient],
        told: Callable[[Sequence[Outcome]], None] | None = None,
        found: Deferred[Hop] | None = None,
    ) -> Sequence[Outcome]:
        """``found`` is the next hop of a single recipient, where it is being looked for."""
        ledger: Ledger = {}
        try:
            if entry.envelope.smtputf8:
                entry = as_international_as_it_is(entry)
            fit = fit_to_say(entry, recipients, ledger)
            batches = await self._batches(entry, fit, ledger, found)
            if told is None or len(batches) == 1:
                await _together([self._express.send(batch) for batch in batches])
            else:
                await _together([self._send(batch, told) for batch in batches])
        except Exception as error:
            maillog.fault("relay", error, entry.queue_id)
        return _outcomes(None, recipients, ledger)

    def _send(self, batch: Batch, told: Callable[[Sequence[Outcome]], None]) -> Deferred[None]:
        numbers = [recipient.number for recipient in batch.pending]
        sent = self._express.send(batch)
        return sent.addCallback(
            lambda _: told([batch.ledger[number] for number in numbers if number in batch.ledger])
        )

    async def _batches(
        self,
        entry: Entry,
        recipients: Sequence[Recipient],
        ledger: Ledger,
        found: Deferred[Hop] | None = None,
    ) -> list[Batch]:
        """Recipients by destination: all domains with the same mail exchanges go together."""
        by_domain: dict[str, list[Recipient]] = {}
        for recipient in recipients:
            by_domain.setdefault(domain_key(recipient.address.domain), []).append(recipient)
        attempts = _attempts(entry)
        groups: dict[Key, tuple[Hop, list[Recipient]]] = {}
        asking = self._reactor.seconds()
        asked = [(found or self._find(entry, domain, attempts), of_it) for domain, of_it in by_domain.items()]
        for where, of_it in asked:
            hop = where if isinstance(where, Hop) else await self._look_up(entry, where, of_it, ledger)
            if hop is not None:
                groups.setdefault(hop.key, (hop, []))[1].extend(of_it)
        began = self._reactor.seconds()
        return [
            Batch(entry, hop, members[start : start + BATCH], ledger, attempts, began, began - asking)
            for hop, members in groups.values()
            for start in range(0, len(members), BATCH)
        ]

    def _find(self, entry: Entry, domain: str, attempts: int) -> Hop | Deferred[Hop]:
        """The domain's next hop; what cannot be told at once is asked for all domains at the same time."""
        try:
            found = self.next_hops.find(entry.envelope, domain, attempts)
        except Exception:
            return fail()
        if isinstance(found, Deferred):
            self._looking.add(found)
        return found

    async def _look_up(
        self, entry: Entry, looking: Deferred[Hop], recipients: Iterable[Recipient], ledger: Ledger
    ) -> Hop | None:
        """The domain's next hop, or none when the ledger has said why."""
        try:
            return await looking
        except CancelledError:
            outcomes: list[Outcome] = [delayed_here(r, STOPPING, SERVER_STOPS) for r in recipients]
        except NoExchange as error:
            outcomes = [failed_here(r, error.status, str(error)) for r in recipients]
        except LookupDelayed as error:
            outcomes = [delayed_here(r, "4.4.3", str(error)) for r in recipients]
        except Exception as error:
            maillog.fault("relay: looking up mail exchanges", error, entry.queue_id)
            outcomes = [delayed_here(r, "4.3.0", "internal error") for r in recipients]
        finally:
            self._looking.discard(looking)
        ledger.update({outcome.recipient.number: outcome for outcome in outcomes})
        return None

    # The end -------------------------------------------------------------------------------------

    async def _stop(self) -> None:
        self._carrier.is_stopping = True
        for looking in tuple(self._looking):
            looking.cancel()
        self.destinations.close()
        self.dialler.is_closing = True
        for session in list(self.dialler.sessions):
            if not session.opened.called:
                session.abort()  # nothing has been said yet that is worth waiting for
        empty = self.destinations.when_empty()
        if empty is not None:
            try:
                await empty.addTimeout(DRAIN_SECONDS, self._reactor)
            except TimeoutError:
                pass
        remaining = list(self.dialler.sessions)
        for session in remaining:
            if session.busy:
                session.abort()
            else:
                session.close()
        await _together([session.gone for session in remaining])


def _attempts(entry: Entry) -> int:
    return max([one.attempts for one in entry.waiting], default=0)


def _outcomes(_: object, recipients: Sequence[Recipient], ledger: Ledger) -> Sequence[Outcome]:
    return [ledger.get(r.number) or delayed_here(r, "4.3.0", "internal error") for r in recipients]


async def _together(waiting: list[Deferred[None]]) -> None:
    await gatherResults(waiting, consumeErrors=True)
