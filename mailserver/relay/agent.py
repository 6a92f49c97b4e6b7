"""The delivery agent for other servers: one entry's recipients, grouped, sent, and accounted for."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError, gatherResults
from twisted.internet.task import deferLater
from zope.interface import implementer

from mailserver import maillog
from mailserver.interfaces import Exchange, IDeliveryAgent, IMailExchanges, LookupDelayed, NoExchange
from mailserver.relay.destinations import CONCURRENCY, TOTAL, Destinations, HostMemory, Key
from mailserver.relay.outcomes import cut_off, delayed_here, failed_here, from_reply, nowhere_left
from mailserver.relay.smtp import SMTPSession, Target, open_session
from mailserver.relay.tls import OpportunisticTLS
from mailserver.values.address import domain_key
from mailserver.values.content import Content
from mailserver.values.envelope import Entry, Recipient
from mailserver.values.outcome import Outcome
from mailserver.wire.client_commands import needs_smtputf8, speakable
from mailserver.wire.smtp_client import SessionEnded, Stage, TransactionDone

BATCH = 100
"""Recipients in one transaction; every server takes as many (RFC 5321 §4.5.3.1.8)."""
ADDRESSES = 5
"""Addresses tried in one attempt; RFC 5321 §5.1 asks for two at least."""
DRAIN_SECONDS = 20.0
"""How long ``stop`` lets transactions finish."""

_POINT_OF_NO_RETURN = (Stage.CONTENT, Stage.END)
_CHUNKS_A_TURN = 16

Ledger = dict[int, Outcome]
"""Outcomes so far, by the recipient's number."""


@dataclass(slots=True)
class _Batch:
    """What goes in one transaction; ``pending`` are those about whom nothing is decided yet."""

    entry: Entry
    exchanges: Sequence[Exchange]
    key: Key
    pending: list[Recipient]
    ledger: Ledger
    troubles: list[tuple[Target, SessionEnded]] = field(default_factory=list)

    def settle(self, outcome: Outcome) -> None:
        self.ledger[outcome.recipient.number] = outcome


@implementer(IDeliveryAgent)
class RelayAgent:
    """Sends to other servers by SMTP."""

    def __init__(
        self,
        reactor: Any,
        exchanges: IMailExchanges,
        hostname: str,
        concurrency: int = CONCURRENCY,
        total: int = TOTAL,
    ) -> None:
        """``hostname`` is what EHLO says; ``concurrency`` sessions at one destination, ``total`` in
        all."""
        self._reactor = reactor
        self._exchanges = exchanges
        self._hostname = domain_key(hostname)
        self._destinations = Destinations(reactor, concurrency, total)
        self._memory = HostMemory(reactor)
        self._tls: OpportunisticTLS | None = None
        self._sessions: set[SMTPSession] = set()
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
        found = await _together([self._look_up(entry, d, rs, ledger) for d, rs in by_domain.items()])
        groups: dict[Key, tuple[Sequence[Exchange], list[Recipient]]] = {}
        for exchanges, of_domain in zip(found, by_domain.values(), strict=True):
            if exchanges:
                key = tuple(sorted([(exchange.name, exchange.port) for exchange in exchanges]))
                groups.setdefault(key, (exchanges, []))[1].extend(of_domain)
        return [
            _Batch(entry, exchanges, key, members[start : start + BATCH], ledger)
            for key, (exchanges, members) in groups.items()
            for start in range(0, len(members), BATCH)
        ]

    async def _look_up(
        self, entry: Entry, domain: str, recipients: Iterable[Recipient], ledger: Ledger
    ) -> Sequence[Exchange]:
        """The domain's exchanges, or none when the ledger has said why."""
        try:
            return await self._exchanges.exchanges(domain)
        except NoExchange as error:
            outcomes: list[Outcome] = [failed_here(r, error.status, str(error)) for r in recipients]
        except LookupDelayed as error:
            outcomes = [delayed_here(r, "4.4.3", str(error)) for r in recipients]
        except Exception as error:
            maillog.fault("relay: looking up mail exchanges", error, entry.queue_id)
            outcomes = [delayed_here(r, "4.3.0", "internal error") for r in recipients]
        ledger.update({outcome.recipient.number: outcome for outcome in outcomes})
        return ()

    async def _send(self, batch: _Batch) -> None:
        """One batch in its turn. A bug here costs these recipients a delay and no others."""
        turn = self._destinations.enter(batch.key)
        if turn is not None:
            await turn
        try:
            await self._walk(batch)
        except Exception as error:
            maillog.fault("relay", error, batch.entry.queue_id)
        finally:
            self._destinations.leave(batch.key)

    async def _walk(self, batch: _Batch) -> None:
        """An open session first, then address after address, until nobody is pending."""
        session = None if self._stopping else self._destinations.take(batch.key)
        if session is not None:
            await self._transact(session, batch)
        # What went wrong on a kept session was its age; it says nothing about the host.
        batch.troubles.clear()
        targets = [Target(e.name, address, e.port) for e in batch.exchanges for address in e.addresses]
        for target in targets[:ADDRESSES]:
            if not batch.pending or self._stopping:
                break
            opened = await self._open(target)
            if isinstance(opened, SessionEnded):
                batch.troubles.append((target, opened))
            else:
                await self._transact(opened, batch)
        for recipient in batch.pending:
            if self._stopping and not batch.troubles:
                batch.settle(delayed_here(recipient, "4.3.2", "the server is shutting down"))
            else:
                all_tried = len(targets) <= ADDRESSES and not self._stopping
                batch.settle(nowhere_left(recipient, batch.troubles, all_tried))

    # Sessions --------------------------------------------------------------------------------------

    async def _open(self, target: Target) -> SMTPSession | SessionEnded:
        if reason := self._memory.reason_to_avoid(target):
            return SessionEnded(Stage.CONNECT, f"{reason} (a short time ago)")
        began = self._reactor.seconds()
        use_tls = not self._memory.tls_fails(target)
        opened = await self._connect(target, use_tls)
        if use_tls and isinstance(opened, SessionEnded) and opened.stage is Stage.HANDSHAKE:
            # Opportunistic: better in clear than not at all (RFC 7435 §3).
            self._memory.tls_failed(target)
            opened = await self._connect(target, use_tls=False)
        if isinstance(opened, SessionEnded):
            self._memory.failed(target, self._reactor.seconds() - began, opened.reason)
        else:
            self._memory.worked(target)
        return opened

    async def _connect(self, target: Target, use_tls: bool) -> SMTPSession | SessionEnded:
        if self._tls is None:
            self._tls = OpportunisticTLS()
        session = open_session(self._reactor, self._hostname, target, self._tls if use_tls else None)
        self._sessions.add(session)
        session.gone.addCallback(lambda _: self._sessions.discard(session))
        return await session.opened

    async def _transact(self, session: SMTPSession, batch: _Batch) -> None:
        """One transaction; settles all but those for whom another address may be tried."""
        try:
            await self._converse(session, batch)
        except Exception:
            session.close()
            raise
        if self._stopping:
            session.close()
        else:
            self._destinations.park(batch.key, session)

    async def _converse(self, session: SMTPSession, batch: _Batch) -> None:
        if not session.extensions.eight_bit and await self._has_eight_bit(batch.entry.content):
            self._settle_all(batch, session, "5.6.3", "the next server does not take 8-bit content")
        self._settle_unfit(batch, session)
        if not batch.pending:
            return
        recipients = batch.pending
        ended = await session.send(batch.entry.envelope, recipients, batch.entry.content)
        notifies = session.extensions.dsn
        for recipient, reply in zip(recipients, ended.replies, strict=False):
            if reply is not None:
                batch.settle(from_reply(recipient, reply, session.target, notifies))
        batch.pending = [r for r in recipients if r.number not in batch.ledger]
        if isinstance(ended, TransactionDone):
            return
        batch.troubles.append((session.target, ended))
        if ended.stage in _POINT_OF_NO_RETURN:
            # The server may have it already: another address now could make a second copy.
            for recipient in batch.pending:
                batch.settle(cut_off(recipient, ended, session.target))
            batch.pending = []

    # What the next server must offer ------------------------------------------------------------

    def _settle_unfit(self, batch: _Batch, session: SMTPSession) -> None:
        extensions, envelope = session.extensions, batch.entry.envelope
        size = batch.entry.content.size
        if extensions.size_limit and size > extensions.size_limit:
            words = f"the message has {size} octets, the next server takes {extensions.size_limit}"
            self._settle_all(batch, session, "5.3.4", words)
        if envelope.body == "BINARYMIME":
            self._settle_all(batch, session, "5.6.3", "the next server does not take binary content")
        if extensions.smtputf8:
            return
        words = "the next server does not take internationalized addresses or headers (SMTPUTF8)"
        for recipient in list(batch.pending):
            if needs_smtputf8(envelope) or not recipient.address.local.isascii():
                batch.settle(failed_here(recipient, "5.6.7", words, session.target))
                batch.pending.remove(recipient)

    def _settle_all(self, batch: _Batch, session: SMTPSession, status: str, words: str) -> None:
        for recipient in batch.pending:
            batch.settle(failed_here(recipient, status, words, session.target))
        batch.pending = []

    async def _has_eight_bit(self, content: Content) -> bool:
        """Whether any octet is above 127; the reactor gets its turn during a large file."""
        for number, chunk in enumerate(content.chunks(), 1):
            if not chunk.isascii():
                return True
            if number % _CHUNKS_A_TURN == 0:
                await deferLater(self._reactor, 0)
        return False

    # The end -------------------------------------------------------------------------------------

    async def _stop(self) -> None:
        self._stopping = True
        self._destinations.close_parked()
        empty = self._destinations.when_empty()
        if empty is not None:
            try:
                await empty.addTimeout(DRAIN_SECONDS, self._reactor)
            except TimeoutError:
                pass
        remaining = list(self._sessions)
        for session in remaining:
            if session.busy:
                session.abort()
            else:
                session.close()
        await _together([_gone(session) for session in remaining])


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
