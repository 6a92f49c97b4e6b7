"""The delivery agent for other servers: one entry's recipients, grouped, sent, and accounted for."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError, gatherResults
from zope.interface import implementer

from mailserver import maillog
from mailserver.interfaces import IDeliveryAgent, IMailExchanges, LookupDelayed, NoExchange
from mailserver.relay.destinations import TOTAL, Destinations, Key, News, Pace
from mailserver.relay.dialling import Candidate, Dialler, Tried, in_order
from mailserver.relay.fitting import Unfit, fitted_content, transaction_of
from mailserver.relay.memory import HostMemory
from mailserver.relay.next_hops import Demands, Hop, NextHops
from mailserver.relay.outcomes import cut_off, delayed_here, failed_here, from_reply, nowhere_left
from mailserver.relay.routes import CredentialsUnreadable, RouteTable
from mailserver.relay.sessions import Manner, Target
from mailserver.relay.smtp import SMTPSession
from mailserver.relay.tls import ClientTLS
from mailserver.values.address import domain_key
from mailserver.values.attempt import Attempt, Facts
from mailserver.values.content import Content
from mailserver.values.envelope import Entry, Recipient
from mailserver.values.outcome import Outcome
from mailserver.values.reply import Reply
from mailserver.wire.client_commands import speakable
from mailserver.wire.client_events import SessionEnded, Stage, TransactionDone

BATCH = 100
"""Recipients in one transaction; every server takes as many (RFC 5321 §4.5.3.1.8)."""
ADDRESSES = 5
"""Addresses tried in one attempt; RFC 5321 §5.1 asks for two at least."""
DRAIN_SECONDS = 20.0
"""How long ``stop`` lets transactions finish."""
REMEMBERED_DIALOGUES = 1000
TURNS = 4
"""How often a message that was turned away because too many of us were there waits in line again."""

_POINT_OF_NO_RETURN = (Stage.CONTENT, Stage.END)
_AT_THE_DOOR = (Stage.CONNECT, Stage.GREETING, Stage.EHLO, Stage.HELO)

Ledger = dict[int, Outcome]
"""Outcomes so far, by the recipient's number."""


@dataclass(slots=True)
class _Batch:
    """What goes in one transaction; ``pending`` are those about whom nothing is decided yet."""

    entry: Entry
    hop: Hop
    pending: list[Recipient]
    ledger: Ledger
    attempts: int
    began: float
    troubles: list[tuple[Target, SessionEnded]] = field(default_factory=list)
    tried: list[Attempt] = field(default_factory=list)
    news: News = News.NONE
    reason: str = ""
    moved_on: bool = False
    """Whether a server's 4yz to MAIL sends us to the next exchange."""

    @property
    def key(self) -> Key:
        return self.hop.key

    def settle(self, outcome: Outcome) -> None:
        self.ledger[outcome.recipient.number] = outcome

    def settle_all(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            self.settle(outcome)
        self.pending = [r for r in self.pending if r.number not in self.ledger]


@implementer(IDeliveryAgent)
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
        self._hostname = domain_key(hostname)
        self.next_hops = NextHops(exchanges, routes, demands)
        self.destinations = Destinations(reactor, pace, total)
        self.dialler = Dialler(reactor, tls or ClientTLS(), HostMemory(reactor))
        self._demands = demands
        self._in_thread = in_thread
        self.last: OrderedDict[Key, dict[str, Any]] = OrderedDict()
        """The last attempt at each destination that went wrong, for who asks."""
        self._now = now
        self._looking: set[Deferred[Hop]] = set()
        self._stopping = False

    def start(self) -> None:
        """Begin to serve; nothing is opened before the first message."""
        self._stopping = False

    def stop(self) -> Deferred[None]:
        """Fires when all sessions are closed: idle ones at once, busy ones when their transaction
        ends, at most ``DRAIN_SECONDS`` from now. What is attempted meanwhile is Delayed."""
        return Deferred.fromCoroutine(self._stop())

    def attempt(self, entry: Entry, recipients: Sequence[Recipient]) -> Deferred[Sequence[Outcome]]:
        """Try once; exactly one outcome for each recipient. Never fails."""
        return Deferred.fromCoroutine(self._attempt(entry, recipients))

    # The attempt ---------------------------------------------------------------------------------

    async def _attempt(self, entry: Entry, recipients: Sequence[Recipient]) -> Sequence[Outcome]:
        ledger: Ledger = {}
        try:
            fit = _fit_to_say(entry, recipients, ledger)
            batches = await self._batches(entry, fit, ledger)
            await _together([self._send(batch) for batch in batches])
        except Exception as error:
            maillog.fault("relay", error, entry.queue_id)
        return [ledger.get(r.number) or delayed_here(r, "4.3.0", "internal error") for r in recipients]

    async def _batches(self, entry: Entry, recipients: Sequence[Recipient], ledger: Ledger) -> list[_Batch]:
        """Recipients by destination: all domains with the same mail exchanges go together."""
        by_domain: dict[str, list[Recipient]] = {}
        for recipient in recipients:
            by_domain.setdefault(domain_key(recipient.address.domain), []).append(recipient)
        attempts = max([one.attempts for one in entry.waiting], default=0)
        found = await _together(
            [self._look_up(entry, d, rs, ledger, attempts) for d, rs in by_domain.items()]
        )
        groups: dict[Key, tuple[Hop, list[Recipient]]] = {}
        for hop, of_domain in zip(found, by_domain.values(), strict=True):
            if hop is not None:
                groups.setdefault(hop.key, (hop, []))[1].extend(of_domain)
        began = self._reactor.seconds()
        return [
            _Batch(entry, hop, members[start : start + BATCH], ledger, attempts, began)
            for hop, members in groups.values()
            for start in range(0, len(members), BATCH)
        ]

    async def _look_up(
        self, entry: Entry, domain: str, recipients: Iterable[Recipient], ledger: Ledger, attempts: int
    ) -> Hop | None:
        """The domain's next hop, or none when the ledger has said why."""
        looking: Deferred[Hop] = Deferred.fromCoroutine(self.next_hops.hop(entry.envelope, domain, attempts))
        self._looking.add(looking)
        try:
            return await looking
        except CancelledError:
            outcomes: list[Outcome] = [delayed_here(r, "4.3.2", "the server is stopping") for r in recipients]
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

    async def _send(self, batch: _Batch) -> None:
        """One batch in its turn. A bug here costs these recipients a delay and no others."""
        for turn in range(TURNS):
            if turn:
                entered = self.destinations.enter_after_another(batch.key)
            else:
                entered = self.destinations.enter(batch.key, batch.hop.pace)
            avoid = entered if isinstance(entered, str) else await entered
            if avoid:
                words = f"{avoid} (a short time ago)"
                batch.settle_all([delayed_here(r, "4.4.1", words) for r in batch.pending])
                return
            alone = self.destinations.busy_at(batch.key) <= 1
            batch.news = News.NONE
            batch.began = self._reactor.seconds()
            try:
                await self._walk(batch)
            except Exception as error:
                maillog.fault("relay", error, batch.entry.queue_id)
                batch.settle_all([delayed_here(r, "4.3.0", "internal error") for r in batch.pending])
            finally:
                crowded = not alone and turn < TURNS - 1 and _is_crowded(batch) and not self._stopping
                self.destinations.leave(batch.key, batch.news, batch.reason)
            if not crowded:
                break
            batch.troubles.clear()
        self._conclude(batch)

    async def _walk(self, batch: _Batch) -> None:
        """An open session first, then address after address, until nobody is pending."""
        session = None if self._stopping else self.destinations.take(batch.key)
        if session is not None:
            await self._transact(session, batch)
        if not batch.pending:
            return
        if not batch.moved_on:
            # What went wrong on a kept session was its age; it says nothing about the host.
            batch.troubles.clear()
            batch.news = News.NONE
        left = in_order(batch.hop.exchanges, batch.hop.securities, batch.attempts)
        left = [one for one in left if session is None or one.target != session.target or not batch.moved_on]
        budget = ADDRESSES
        while left and batch.pending and budget and not self._stopping:
            candidate = left.pop(0)
            rival = left[0] if left and left[0].target.host == candidate.target.host else None
            for tried in await self._open(candidate, rival, batch):
                budget -= 1
                if tried.candidate in left:
                    left.remove(tried.candidate)
                if tried.session is None or tried.ended is not None:
                    self._note_trouble(batch, tried)
                else:
                    batch.moved_on = False
                    await self._transact(tried.session, batch)
                    if batch.pending and tried.session.worn_out:
                        left.insert(0, tried.candidate)
                        budget += 1
                if not budget:
                    break
        batch.moved_on = bool(left)  # some were never asked: no refusal is final

    async def _open(self, candidate: Candidate, rival: Candidate | None, batch: _Batch) -> list[Tried]:
        route = batch.hop.route

        def manner(address: str) -> Manner:
            if route is None:
                return Manner(self._hostname)
            return Manner(route.hello or self._hostname, route.source_for(address), login)

        try:
            login = route.login() if route is not None else None
        except CredentialsUnreadable as error:
            maillog.misconfigured(f"route {batch.key.way!r}: {error}", batch.entry.queue_id)
            ended = SessionEnded(Stage.AUTH, f"the route's password cannot be read: {error}")
            return [Tried(candidate, None, ended, avoided=True)]
        watcher = None if self._demands is None else lambda session: self._tell(session, batch)
        return await self.dialler.open(candidate, rival, manner, watcher)

    def _tell(self, session: SMTPSession, batch: _Batch) -> None:
        """Who decides about security learns what became of it."""
        handshake = session.handshake
        if self._demands is None or handshake is None:
            return
        domains = {recipient.address.domain for recipient in batch.pending}
        target = session.target
        self._demands.observed(
            domains, session.security, target.host, target.address, handshake.reached, handshake.mismatch
        )

    def _note_trouble(self, batch: _Batch, tried: Tried) -> None:
        ended = tried.ended
        assert ended is not None
        batch.troubles.append((tried.candidate.target, ended))
        if self._demands is not None and tried.candidate.security.refused:
            target = tried.candidate.target
            self._demands.refused(tried.candidate.security, target.host, target.address)
        if tried.session is not None:
            batch.tried.append(tried.session.attempt(self._at(tried.session), ended.reason))
            self._remember(batch)
        if not tried.avoided and ended.stage is not Stage.AUTH:
            batch.news, batch.reason = News.BAD, ended.reason

    def _at(self, session: SMTPSession) -> float:
        """When a session was begun, in seconds since the epoch."""
        elapsed: float = self._reactor.seconds() - session.started
        return self._now() - elapsed

    def _conclude(self, batch: _Batch) -> None:
        """Nobody is left to ask."""
        facts = Facts(self._reactor.seconds() - batch.began, 0.0, 0, tuple(batch.tried))
        for recipient in batch.pending:
            if self._stopping and not batch.troubles:
                outcome: Outcome = delayed_here(recipient, "4.3.2", "the server is shutting down")
            else:
                all_tried = not batch.moved_on and not self._stopping
                outcome = nowhere_left(recipient, batch.troubles, all_tried)
            batch.settle(replace(outcome, facts=facts))

    # Sessions --------------------------------------------------------------------------------------

    async def _transact(self, session: SMTPSession, batch: _Batch) -> None:
        """Transactions until all are settled but those for whom another address may be tried."""
        try:
            while batch.pending and session.usable:
                if not await self._converse(session, batch):
                    break
        except Exception:
            session.close()
            raise
        if self._stopping:
            session.close()
        else:
            self.destinations.park(batch.key, session)

    async def _converse(self, session: SMTPSession, batch: _Batch) -> bool:
        """One transaction; whether there is a point in another one here."""
        target = session.target
        recipients, unfit = transaction_of(batch.entry, batch.pending, session.extensions)
        batch.settle_all([failed_here(one.recipient, one.status, one.reason, target) for one in unfit])
        if not recipients:
            return False
        if session.security.require_tls and "REQUIRETLS" not in session.extensions.keywords:
            words = "the sender requires TLS all the way, and the next server does not offer REQUIRETLS"
            batch.troubles.append((target, SessionEnded(Stage.EHLO, words, status="5.7.30")))
            batch.moved_on = True
            return False
        envelope = batch.entry.envelope
        try:
            content, envelope = await self._fitted(session, batch)
        except Unfit as error:
            batch.settle_all([failed_here(r, error.status, str(error), target) for r in batch.pending])
            return False
        ready = self._reactor.seconds()
        ended = await session.send(envelope, recipients, content)
        sending = self._reactor.seconds() - ready
        is_done = isinstance(ended, TransactionDone)
        words = "" if isinstance(ended, TransactionDone) else ended.reason
        batch.tried.append(session.attempt(self._now() - (self._reactor.seconds() - batch.began), words))
        facts = Facts(max(0.0, ready - batch.began), sending, session.uses, tuple(batch.tried))
        self._learn(batch, ended)
        if _refused_any(ended):
            self._remember(batch)
        refused = next((r for r in ended.replies if r is not None), None)
        if is_done and _is_for_the_next(session, ended.replies) and refused is not None:
            # 4yz to MAIL is about this host and not about a recipient: the next exchange is asked.
            refusal = SessionEnded(Stage.MAIL, f"MAIL was refused: {refused.text}", refused)
            batch.troubles.append((target, refusal))
            batch.moved_on = True
            return False
        notifies = session.extensions.dsn
        for recipient, reply in zip(recipients, ended.replies, strict=False):
            if reply is not None:
                batch.settle(from_reply(recipient, reply, target, notifies, facts))
        batch.pending = [r for r in batch.pending if r.number not in batch.ledger]
        if isinstance(ended, TransactionDone):
            return True
        batch.troubles.append((target, ended))
        if ended.stage in _POINT_OF_NO_RETURN:
            # The server may have it already: another address now could make a second copy.
            for recipient in recipients:
                if recipient.number not in batch.ledger:
                    batch.settle(replace(cut_off(recipient, ended, target), facts=facts))
            batch.pending = [r for r in batch.pending if r.number not in batch.ledger]
        return False

    async def _fitted(self, session: SMTPSession, batch: _Batch) -> tuple[Content, Any]:
        """The content as this server can take it; nearly always as it is."""
        entry, extensions = batch.entry, session.extensions
        if extensions.eight_bit and entry.envelope.body != "BINARYMIME":
            return entry.content, entry.envelope
        return await fitted_content(entry, extensions, self._reactor, self._in_thread)

    def _remember(self, batch: _Batch) -> None:
        self.last[batch.key] = batch.tried[-1].fields()
        self.last.move_to_end(batch.key)
        if len(self.last) > REMEMBERED_DIALOGUES:
            self.last.popitem(last=False)

    def _learn(self, batch: _Batch, ended: TransactionDone | SessionEnded) -> None:
        """Whether the destination wants less of us: by its own word, or by ending sessions."""
        if isinstance(ended, SessionEnded):
            batch.news, batch.reason = News.BAD, ended.reason
            return
        slow = [reply for reply in ended.replies if _slows(reply)]
        if slow and len(slow) == len(ended.replies):
            batch.news, batch.reason = News.BAD, slow[0].text
        else:
            batch.news = News.GOOD

    # The end -------------------------------------------------------------------------------------

    async def _stop(self) -> None:
        self._stopping = True
        for looking in tuple(self._looking):
            looking.cancel()
        self.destinations.close()
        empty = self.destinations.when_empty()
        if empty is not None:
            try:
                await empty.addTimeout(DRAIN_SECONDS, self._reactor)
            except TimeoutError:
                pass
        self.dialler.is_closing = True
        remaining = list(self.dialler.sessions)
        for session in remaining:
            if session.busy:
                session.abort()
            else:
                session.close()
        await _together([_gone(session) for session in remaining])


def _refused_any(ended: TransactionDone | SessionEnded) -> bool:
    """Whether a transaction was anything but well."""
    if isinstance(ended, SessionEnded):
        return True
    return any(reply is None or reply.code >= 400 for reply in ended.replies)


def _slows(reply: Reply) -> bool:
    """Whether a reply asks us to come more slowly: 4.7.x is policy, and policy for now is a limit."""
    return reply.code // 100 == 4 and reply.enhanced.startswith("4.7.")


def _is_crowded(batch: _Batch) -> bool:
    """Whether it was turned away at the door because others of ours were inside: nothing is lost by
    waiting for one of them to leave."""
    return (
        bool(batch.pending)
        and bool(batch.troubles)
        and all(
            ended.stage in _AT_THE_DOOR and ended.reply is not None and ended.reply.code == 421
            for _, ended in batch.troubles
        )
    )


def _is_for_the_next(session: SMTPSession, replies: Sequence[Reply | None]) -> bool:
    """Whether MAIL itself met a 4yz, which every recipient then has as its reply."""
    first = replies[0] if replies else None
    return (
        first is not None
        and first.code // 100 == 4
        and all(reply is first for reply in replies)
        and session.mail_refused
    )


async def _gone(session: SMTPSession) -> None:
    await session.gone


async def _together(coroutines: list[Coroutine[Deferred[Any], Any, Any]]) -> list[Any]:
    """All results, in order; one coroutine alone is simply awaited."""
    if len(coroutines) == 1:
        return [await coroutines[0]]
    return list(await gatherResults([Deferred.fromCoroutine(c) for c in coroutines], consumeErrors=True))


def _fit_to_say(entry: Entry, recipients: Sequence[Recipient], ledger: Ledger) -> list[Recipient]:
    """Those whose addresses can stand in a command; no line end ever gets into one."""
    sender_is_fit = speakable(entry.envelope.reverse_path)
    fit: list[Recipient] = []
    for recipient in recipients:
        if not sender_is_fit:
            ledger[recipient.number] = failed_here(recipient, "5.1.7", "the reverse-path is malformed")
        elif not speakable(recipient.address):
            ledger[recipient.number] = failed_here(recipient, "5.1.3", "the address is malformed")
        else:
            fit.append(recipient)
    return fit
