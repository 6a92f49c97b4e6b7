"""The MDA's way into a mailbox here: builds the final header, delivers, names the outcome."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from mailserver import maillog
from mailserver.deliver.final import FinalForm, final_form, final_header, was_tried
from mailserver.interfaces import (
    Delivery,
    IDeliveryAgent,
    IMailbox,
    MailboxFull,
    MailboxUnavailable,
    StoreStopping,
)
from mailserver.promise import Promise
from mailserver.threads import Bridge
from mailserver.values.envelope import Entry, Recipient
from mailserver.values.outcome import STOPPING, Delayed, Delivered, Failed, Outcome

_FULL = {errno.ENOSPC: ("4.3.1", "the disk is full"), errno.EDQUOT: ("4.2.2", "the mailbox is full")}


@implementer(IDeliveryAgent)
class MailboxAgent:
    """Delivers to the mailboxes of this server."""

    def __init__(
        self, bridge: Bridge, mailbox_of: Callable[[Recipient], IMailbox | None], hostname: str
    ) -> None:
        """``mailbox_of`` gives ``None`` for a recipient who has no mailbox (any more)."""
        self._bridge = bridge
        self._mailbox_of = mailbox_of
        self._hostname = hostname

    def attempt(self, entry: Entry, recipients: Sequence[Recipient]) -> Deferred[Sequence[Outcome]]:
        """See ``IDeliveryAgent``."""
        try:
            begun = self._begin(entry, recipients)
        except Exception as error:
            failure = _outcome_of(error, "none")
            return succeed([failure(recipient) for recipient in recipients])
        futures = [attempt.future for attempt in begun if attempt.future is not None]
        if not futures:
            return succeed([attempt.outcome() for attempt in begun])

        def outcomes(_: object) -> Sequence[Outcome]:
            return [attempt.outcome() for attempt in begun]

        return self._bridge.deferred(_all_done(futures)).addBoth(outcomes)

    def _begin(self, entry: Entry, recipients: Sequence[Recipient]) -> list[_Attempt]:
        """Hand the message to each recipient's mailbox; raises when its content cannot be read."""
        form = final_form(entry)
        begun: list[_Attempt] = []
        for recipient in recipients:
            try:
                begun.append(self._deliver(entry, recipient, form))
            except Exception as error:
                begun.append(_Attempt(recipient, settled=_outcome_of(error, "none")(recipient)))
        return begun

    def _deliver(self, entry: Entry, recipient: Recipient, form: FinalForm) -> _Attempt:
        if looped := form.loop_at(recipient):
            return _Attempt(recipient, settled=looped)
        mailbox = self._mailbox_of(recipient)
        if mailbox is None:
            nobody = f"{self._hostname} has no mailbox for {recipient.address}"
            return _Attempt(recipient, settled=Failed(recipient=recipient, status="5.1.1", diagnostic=nobody))
        delivery = Delivery(
            f"{entry.queue_id}.{recipient.number}",
            final_header(entry, recipient),
            form.content,
            entry.envelope.reverse_path,
            entry.arrived,
            was_tried(entry, recipient),
        )
        return _Attempt(recipient, mailbox.deliver(delivery), mailbox.format)


class _Attempt:
    """One recipient's delivery under way, or settled without one."""

    __slots__ = ("_format", "_recipient", "_settled", "future")

    def __init__(
        self,
        recipient: Recipient,
        future: Future[None] | None = None,
        format: str = "none",
        settled: Outcome | None = None,
    ) -> None:
        self._recipient = recipient
        self.future = future
        self._format = format
        self._settled = settled

    def outcome(self) -> Outcome:
        """What became of it; asked only when the future is done."""
        if self._settled is not None:
            return self._settled
        error = self.future.exception() if self.future else None
        if error is not None:
            return _outcome_of(error, self._format)(self._recipient)
        return Delivered(
            recipient=self._recipient,
            status="2.0.0",
            diagnostic=f"delivered to {self._format}",
            relay=self._format,
        )


def _outcome_of(error: BaseException, relay: str) -> Callable[[Recipient], Outcome]:
    """Never more than a delay, but for a full mailbox where the administrator says so: a fault of ours is
    no reason to give a message up.

    Texts go into reports, so no path and no exception text but the system's own words.
    """
    if isinstance(error, MailboxFull):
        status, why = "4.2.2", str(error)
        if error.refused:
            return lambda recipient: Failed(recipient=recipient, status="5.2.2", diagnostic=why, relay=relay)
    elif isinstance(error, StoreStopping):
        status, why = STOPPING, str(error)
    elif isinstance(error, MailboxUnavailable):
        status, why = "4.2.0", str(error)
    elif isinstance(error, OSError):
        status, why = _FULL.get(error.errno or 0, ("4.2.0", error.strerror or "the mailbox cannot be used"))
    else:
        _log(error)
        status, why = "4.3.0", "an internal fault; the server's log has the details"
    return lambda recipient: Delayed(recipient=recipient, status=status, diagnostic=why, relay=relay)


def _log(fault: BaseException) -> None:
    try:
        raise fault  # the log takes the traceback of the exception under way
    except BaseException as error:
        maillog.fault("delivery to a mailbox", error)


def _all_done(futures: list[Future[None]]) -> Future[None]:
    """A future that is done when all are, so that an attempt wakes the reactor once."""
    if len(futures) == 1:
        return futures[0]
    together: Future[None] = Promise()
    lock = threading.Lock()
    waiting = len(futures)

    def one_done(_: Future[None]) -> None:
        nonlocal waiting
        with lock:
            waiting -= 1
            last = not waiting
        if last:
            together.set_result(None)

    for future in futures:
        future.add_done_callback(one_done)
    return together
