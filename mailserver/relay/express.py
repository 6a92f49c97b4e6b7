"""The short way of a message: a place, an open session, one transaction. All else is the carrier's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred

from mailserver import maillog
from mailserver.relay.batch import Batch
from mailserver.relay.carrying import Carrier, failed, turned_away
from mailserver.relay.destinations import SESSION_SECONDS, Destinations
from mailserver.relay.fitting import transaction_of
from mailserver.relay.smtp import SMTPSession
from mailserver.values.envelope import Recipient
from mailserver.wire.client_events import SessionEnded, TransactionDone


class Express:
    """Sends batches, each in its turn.

    Plain callbacks, for a coroutine that waits twice costs a message more than its transaction.  When the
    content of one message leaves, the next in line for the same destination goes along
    (``SMTPSession.follow``), and has session and place when the one before is done.
    """

    def __init__(self, reactor: Any, destinations: Destinations, carrier: Carrier) -> None:
        self._reactor = reactor
        self._destinations = destinations
        self._carrier = carrier

    def send(self, batch: Batch) -> Deferred[None]:
        """Fires when nobody in the batch is pending. Never fails."""
        entered = self._destinations.enter(batch.key, batch.hop.pace, batch)
        if isinstance(entered, str):
            self._entered(entered, batch)
        else:
            batch.place = entered
            entered.addCallback(self._entered, batch)
        return batch.done

    def _entered(self, avoid: str, batch: Batch) -> None:
        if avoid:
            turned_away(batch, avoid)
            batch.done.callback(None)
            return
        session = self._carrier.enter(batch)
        try:
            recipients = whole_transaction(session, batch) if session is not None else ()
            if session is None or not recipients:
                Deferred.fromCoroutine(self._carrier.carry(batch, session))
                return
            self._begin(session, batch, recipients, session.send)
        except Exception as error:
            self._failed(session, batch, error)

    def _begin(
        self,
        session: SMTPSession,
        batch: Batch,
        recipients: Sequence[Recipient],
        send: Callable[..., Deferred[TransactionDone | SessionEnded]],
    ) -> None:
        entry = batch.entry
        sent = send(entry.envelope, recipients, entry.content, partial(self._take_along, session, batch))
        sent.addCallback(self._sent, session, batch, recipients, self._reactor.seconds())

    def _sent(
        self,
        ended: TransactionDone | SessionEnded,
        session: SMTPSession,
        batch: Batch,
        recipients: Sequence[Recipient],
        ready: float,
    ) -> None:
        if batch.is_behind:
            self._send_back(batch)
            return
        behind, batch.behind = batch.behind, None
        is_followed = False
        if behind is not None and type(ended) is TransactionDone:
            behind.is_behind, is_followed = False, True
        try:
            met = self._carrier.meet(session, batch, recipients, ended, ready)
            if met is None and not is_followed:
                self._carrier.part(session, batch)
        except Exception as error:
            if is_followed:
                self._destinations.step_in(batch.key)
            self._failed(session, batch, error)
            return
        if met is not None:
            if is_followed:
                self._destinations.step_in(batch.key)
            Deferred.fromCoroutine(self._carrier.carry(batch, session, met))
            return
        if is_followed:
            self._destinations.hand_over(batch.key, batch.news)
        else:
            self._destinations.leave(batch.key, batch.news)
        batch.done.callback(None)

    def _failed(self, session: SMTPSession | None, batch: Batch, error: Exception) -> None:
        if session is not None:
            session.close()
        failed(batch, error)
        self._destinations.leave(batch.key)
        batch.done.callback(None)

    # Going along -----------------------------------------------------------------------------------

    def _take_along(self, session: SMTPSession, batch: Batch) -> None:
        """The content of ``batch`` is about to leave: the next in line goes along if nothing forbids it."""
        old = self._reactor.seconds() - session.started > SESSION_SECONDS
        waiting = None if old or self._carrier.is_stopping else self._destinations.next_in_line(batch.key)
        if waiting is None or not isinstance(waiting.errand, Batch):
            return
        behind = waiting.errand
        try:
            if recipients := whole_transaction(session, behind):
                self._begin(session, behind, recipients, session.follow)
        except Exception as error:
            maillog.fault("relay", error, behind.entry.queue_id)  # it meets the same again in its own turn
            return
        if recipients:
            behind.begins(self._reactor.seconds())
            behind.is_behind = True
            batch.behind = behind
            self._destinations.take_along(batch.key)

    def _send_back(self, batch: Batch) -> None:
        """The session ended before the message ahead was answered: of this one it had no content."""
        batch.is_behind = False
        assert batch.place is not None
        self._destinations.send_back(batch.key, batch.place)


def whole_transaction(session: SMTPSession, batch: Batch) -> Sequence[Recipient]:
    """All who are pending, where one transaction here takes them with the content as it is; else nobody."""
    entry, extensions = batch.entry, session.extensions
    if not extensions.eight_bit or entry.envelope.body == "BINARYMIME" or entry.envelope.priority:
        return ()
    if session.security.require_tls and "REQUIRETLS" not in extensions.keywords:
        return ()
    recipients, unfit = transaction_of(entry, batch.pending, extensions)
    return recipients if not unfit and len(recipients) == len(batch.pending) else ()
