"""Carries a batch to its destination: sessions, address after address, until nobody is pending."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mailserver import maillog
from mailserver.relay.batch import Batch, is_crowded, is_for_the_next, refused_any, slows
from mailserver.relay.destinations import Destinations, Key, News
from mailserver.relay.dialling import Candidate, Dialler, Tried, in_order
from mailserver.relay.fitting import Unfit, fitted_content, transaction_of, with_priority
from mailserver.relay.next_hops import Demands
from mailserver.relay.outcomes import cut_off, delayed_here, failed_here, from_reply, nowhere_left
from mailserver.relay.routes import CredentialsUnreadable
from mailserver.relay.sessions import Manner
from mailserver.relay.smtp import SMTPSession
from mailserver.values.attempt import Facts
from mailserver.values.content import Content
from mailserver.values.envelope import Envelope, Recipient
from mailserver.values.outcome import SERVER_STOPS, STOPPING, Outcome
from mailserver.values.reply import Reply
from mailserver.wire.client_events import SessionEnded, Stage, TransactionDone

ADDRESSES = 5
"""Addresses tried in one attempt; RFC 5321 §5.1 asks for two at least. Those that are left alone for what was
learnt a short time ago are none: behind five dead hosts may be one that lives."""
REMEMBERED_DIALOGUES = 1000
TURNS = 4
"""How often a message that was turned away because too many of us were there waits in line again."""

_POINT_OF_NO_RETURN = (Stage.CONTENT, Stage.END)


@dataclass(frozen=True, slots=True)
class Met:
    """A transaction that did not go well for all of its recipients."""

    recipients: Sequence[Recipient]
    ended: TransactionDone | SessionEnded
    facts: Facts


def turned_away(batch: Batch, avoid: str) -> None:
    """The destination is dead, or the server stops, and nothing is tried."""
    if avoid == SERVER_STOPS:
        batch.settle_all([delayed_here(r, STOPPING, avoid) for r in batch.pending])
        return
    words = f"{avoid} (a short time ago)"
    batch.settle_all([delayed_here(r, "4.4.1", words) for r in batch.pending])


def failed(batch: Batch, error: Exception) -> None:
    """A bug of ours, which costs these recipients a delay."""
    maillog.fault("relay", error, batch.entry.queue_id)
    batch.settle_all([delayed_here(r, "4.3.0", "internal error") for r in batch.pending])


class Carrier:
    """Sends batches; ``last`` is the last attempt at each destination that went wrong, for who asks."""

    def __init__(
        self,
        reactor: Any,
        hostname: str,
        destinations: Destinations,
        dialler: Dialler,
        demands: Demands | None,
        in_thread: Callable[..., Awaitable[Any]] | None,
        now: Callable[[], float],
    ) -> None:
        self._reactor = reactor
        self._hostname = hostname
        self._destinations = destinations
        self._dialler = dialler
        self._demands = demands
        self._in_thread = in_thread
        self._now = now
        self.last: OrderedDict[Key, dict[str, Any]] = OrderedDict()
        self.is_stopping = False
        """Nothing new is begun, and what is attempted is Delayed."""

    async def carry(self, batch: Batch, session: SMTPSession | None, met: Met | None = None) -> None:
        """One batch that has a place, and an open session if there is one; ``met`` is what a transaction
        there has met already. A bug here costs these recipients a delay and no others."""
        for turn in range(TURNS):
            if turn:
                entered = self._destinations.enter_after_another(batch.key)
                avoid = entered if isinstance(entered, str) else await entered
                if avoid:
                    turned_away(batch, avoid)
                    break
                session, met = self.enter(batch), None
            alone = self._destinations.busy_at(batch.key) <= 1
            try:
                await self._walk(batch, session, met)
            except Exception as error:
                failed(batch, error)
            finally:
                crowded = not alone and turn < TURNS - 1 and is_crowded(batch) and not self.is_stopping
                self._destinations.leave(batch.key, batch.news, batch.reason)
            if not crowded:
                break
            batch.troubles.clear()
        self._conclude(batch)
        batch.done.callback(None)

    def enter(self, batch: Batch) -> SMTPSession | None:
        """The batch has a place: it begins, on an open session if there is one."""
        batch.begins(self._reactor.seconds())
        return None if self.is_stopping else self._destinations.take(batch.key)

    async def _walk(self, batch: Batch, session: SMTPSession | None, met: Met | None) -> None:
        """An open session first, then address after address, until nobody is pending."""
        if session is not None:
            await self._transact(session, batch, met)
        if not batch.pending:
            return
        if not batch.moved_on:
            # What went wrong on a kept session was its age; it says nothing about the host.
            batch.troubles.clear()
            batch.news = News.NONE
        left = in_order(batch.hop.exchanges, batch.hop.securities, batch.attempts)
        left = [one for one in left if session is None or one.target != session.target or not batch.moved_on]
        budget = ADDRESSES
        while left and batch.pending and budget and not self.is_stopping:
            candidate = left.pop(0)
            rival = left[0] if left and left[0].target.host == candidate.target.host else None
            for tried in await self._open(candidate, rival, batch):
                budget -= not tried.avoided
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

    async def _open(self, candidate: Candidate, rival: Candidate | None, batch: Batch) -> list[Tried]:
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
        return await self._dialler.open(candidate, rival, manner, watcher)

    def _tell(self, session: SMTPSession, batch: Batch) -> None:
        """Who decides about security learns what became of it."""
        handshake = session.handshake
        if self._demands is None or handshake is None:
            return
        domains = {recipient.address.domain for recipient in batch.pending}
        target = session.target
        self._demands.observed(
            domains, session.security, target.host, target.address, handshake.reached, handshake.mismatch
        )

    def _note_trouble(self, batch: Batch, tried: Tried) -> None:
        ended = tried.ended
        assert ended is not None
        batch.troubles.append((tried.candidate.target, ended))
        if self._demands is not None and tried.candidate.security.refused:
            target = tried.candidate.target
            self._demands.refused(tried.candidate.security, target.host, target.address)
        if tried.session is not None:
            batch.tries(tried.session.attempt(self._at(tried.session), ended.reason))
            self._remember(batch)
        if not tried.avoided and ended.stage is not Stage.AUTH:
            batch.news, batch.reason = News.BAD, ended.reason

    def _at(self, session: SMTPSession) -> float:
        """When a session was begun, in seconds since the epoch."""
        elapsed: float = self._reactor.seconds() - session.started
        return self._now() - elapsed

    def _conclude(self, batch: Batch) -> None:
        """Nobody is left to ask."""
        setup = batch.looked + self._reactor.seconds() - batch.began
        facts = Facts(setup, 0.0, 0, tuple(batch.tried))
        for recipient in batch.pending:
            if self.is_stopping and not batch.troubles:
                outcome: Outcome = delayed_here(recipient, STOPPING, SERVER_STOPS)
            else:
                all_tried = not batch.moved_on and not self.is_stopping
                outcome = nowhere_left(recipient, batch.troubles, all_tried)
            batch.settle(replace(outcome, facts=facts))

    # Sessions --------------------------------------------------------------------------------------

    async def _transact(self, session: SMTPSession, batch: Batch, met: Met | None = None) -> None:
        """Transactions until all are settled but those for whom another address may be tried."""
        try:
            goes_on = met is None or self._judge(session, batch, met)
            while goes_on and batch.pending and session.usable:
                goes_on = await self._converse(session, batch)
        except Exception:
            session.close()
            raise
        self.part(session, batch)

    def part(self, session: SMTPSession, batch: Batch) -> None:
        """Leave the session to others, unless one has it already."""
        if session.busy:
            return
        if self.is_stopping:
            session.close()
        else:
            self._destinations.park(batch.key, session)

    async def _converse(self, session: SMTPSession, batch: Batch) -> bool:
        """One transaction; whether there is a point in another one here."""
        target = session.target
        recipients, unfit = transaction_of(batch.entry, batch.pending, session.extensions)
        if unfit:
            batch.settle_all([failed_here(one.recipient, one.status, one.reason, target) for one in unfit])
        if not recipients:
            return False
        if session.security.require_tls and "REQUIRETLS" not in session.extensions.keywords:
            words = "the sender requires TLS all the way, and the next server does not offer REQUIRETLS"
            batch.troubles.append((target, SessionEnded(Stage.EHLO, words, status="5.7.30")))
            batch.moved_on = True
            return False
        envelope, content = batch.entry.envelope, batch.entry.content
        if not session.extensions.eight_bit or envelope.body == "BINARYMIME":
            try:
                content, envelope = await self._fitted(session, batch)
            except Unfit as error:
                batch.settle_all([failed_here(r, error.status, str(error), target) for r in batch.pending])
                return False
        if envelope.priority:
            content = with_priority(content, envelope, session.extensions)
        ready = self._reactor.seconds()
        ended = await session.send(envelope, recipients, content)
        met = self.meet(session, batch, recipients, ended, ready)
        return met is None or self._judge(session, batch, met)

    def meet(
        self,
        session: SMTPSession,
        batch: Batch,
        recipients: Sequence[Recipient],
        ended: TransactionDone | SessionEnded,
        ready: float,
    ) -> Met | None:
        """Keep the facts of a transaction that began at ``ready``; ``None`` when it went well for all, nearly
        always, and all of them are settled."""
        now = self._reactor.seconds()
        is_done = type(ended) is TransactionDone
        words = "" if is_done else ended.reason  # type: ignore[union-attr]
        attempt = session.attempt(self._now() - (now - batch.began), words)
        batch.tries(attempt)
        setup = batch.looked + max(0.0, ready - batch.began)
        facts = Facts(setup, now - ready, attempt.uses, tuple(batch.tried))
        if not is_done or [r for r in ended.replies if r is None or r.code >= 300]:
            return Met(recipients, ended, facts)
        batch.news = News.GOOD
        self._settle(session, batch, recipients, ended.replies, facts)
        return None

    def _judge(self, session: SMTPSession, batch: Batch, met: Met) -> bool:
        """What a transaction that did not go well for all means; whether there is a point in another one."""
        target, recipients, ended, facts = session.target, met.recipients, met.ended, met.facts
        self._learn(batch, ended)
        if refused_any(ended):
            self._remember(batch)
        refused = next((r for r in ended.replies if r is not None), None)
        is_done = isinstance(ended, TransactionDone)
        if is_done and is_for_the_next(session, ended.replies) and refused is not None:
            # 4yz to MAIL is about this host and not about a recipient: the next exchange is asked.
            refusal = SessionEnded(Stage.MAIL, f"MAIL was refused: {refused.text}", refused)
            batch.troubles.append((target, refusal))
            batch.moved_on = True
            return False
        self._settle(session, batch, recipients, ended.replies, facts)
        if isinstance(ended, TransactionDone):
            return True
        batch.troubles.append((target, ended))
        if ended.stage in _POINT_OF_NO_RETURN:
            # The server may have it already: another address now could make a second copy.
            unheard = [r for r in recipients if r.number not in batch.ledger]
            batch.settle_all([replace(cut_off(r, ended, target), facts=facts) for r in unheard])
        return False

    @staticmethod
    def _settle(
        session: SMTPSession,
        batch: Batch,
        recipients: Sequence[Recipient],
        replies: Sequence[Reply | None],
        facts: Facts,
    ) -> None:
        """Each recipient gets the reply that it was given, if it was."""
        notifies = session.extensions.dsn
        for recipient, reply in zip(recipients, replies, strict=False):
            if reply is not None:
                batch.settle(from_reply(recipient, reply, session.target, notifies, facts))
        batch.pending = [r for r in batch.pending if r.number not in batch.ledger]

    async def _fitted(self, session: SMTPSession, batch: Batch) -> tuple[Content, Envelope]:
        """The content as a server without 8BITMIME can take it, or binary content."""
        return await fitted_content(batch.entry, session.extensions, self._reactor, self._in_thread)

    def _remember(self, batch: Batch) -> None:
        self.last[batch.key] = batch.tried[-1].fields()
        self.last.move_to_end(batch.key)
        if len(self.last) > REMEMBERED_DIALOGUES:
            self.last.popitem(last=False)

    def _learn(self, batch: Batch, ended: TransactionDone | SessionEnded) -> None:
        """Whether the destination wants less of us: by its own word, or by ending sessions."""
        if isinstance(ended, SessionEnded):
            batch.news, batch.reason = News.BAD, ended.reason
            return
        slow = [reply for reply in ended.replies if slows(reply)]
        if slow and len(slow) == len(ended.replies):
            batch.news, batch.reason = News.BAD, slow[0].text
        else:
            batch.news = News.GOOD
