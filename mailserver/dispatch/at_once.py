"""Delivers to mailboxes here before the client has its answer, so that nothing has to be spooled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from twisted.internet.defer import Deferred

from mailserver import maillog
from mailserver.interfaces import IDeliveryAgent, IDirectory
from mailserver.values.account import Account, LocalUser
from mailserver.values.envelope import Entry, Envelope, Recipient
from mailserver.values.outcome import Delivered, Outcome

MOST_RECIPIENTS = 8
"""With more, a client would wait long for its answer; those messages take the way through the spool."""


class AtOnce:
    """One attempt, while the client waits, on a message that nobody has promised anything about yet.

    A delivery to a mailbox is durable when its outcome comes, so for a message that has no other
    recipients the 250 needs no record of ours: whatever is not delivered goes to the spool, and the
    250 waits for that.  ``mailboxes`` delivers; ``is_quick`` tells whether an account's mailbox takes
    mail without waiting for another program's lock.
    """

    def __init__(
        self,
        directory: IDirectory,
        mailboxes: IDeliveryAgent,
        is_quick: Callable[[Account], bool],
        now: Callable[[], float],
    ) -> None:
        self._directory = directory
        self._mailboxes = mailboxes
        self._is_quick = is_quick
        self._now = now

    def attempt(
        self, entry: Entry, accepted: Callable[[Entry], None]
    ) -> Deferred[Sequence[Recipient]] | None:
        """Those recipients who still wait afterwards; ``None`` when the message is none of ours.

        ``accepted`` is told before anything else, once nobody waits.
        """
        if not self._is_ours(entry.envelope):
            return None
        recipients = entry.envelope.recipients
        attempt = self._mailboxes.attempt(entry, recipients)
        return attempt.addCallback(partial(self._ended, entry, accepted, self._now()))

    def _is_ours(self, envelope: Envelope) -> bool:
        if len(envelope.recipients) > MOST_RECIPIENTS or envelope.is_kept_back:
            return False
        if envelope.deliver_by or envelope.terminal:
            return False
        try:
            return all(map(self._is_plain, envelope.recipients))
        except Exception:
            return False  # the runner asks again, and says what is wrong

    def _is_plain(self, recipient: Recipient) -> bool:
        """Whether it is a mailbox here, and nobody is to hear of the delivery."""
        if recipient.notify:
            return False
        answer = self._directory.resolve(recipient.address)
        return isinstance(answer, LocalUser) and self._is_quick(answer.account)

    def _ended(
        self,
        entry: Entry,
        accepted: Callable[[Entry], None],
        began: float,
        outcomes: Sequence[Outcome],
    ) -> Sequence[Recipient]:
        done = [outcome for outcome in outcomes if type(outcome) is Delivered]
        left = [outcome.recipient for outcome in outcomes if type(outcome) is not Delivered]
        if not left:
            accepted(entry)
        maillog.attempted(entry, done, self._now(), began)
        if not left:
            maillog.removed(entry)
        return left
