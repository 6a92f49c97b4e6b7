"""ETRN: who may have which domain's waiting mail sent now, and how often (RFC 1985)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mailserver import maillog
from mailserver.interfaces import ISpool
from mailserver.threads import Bridge
from mailserver.values.address import domain_key
from mailserver.values.reply import Reply, reply
from mailserver.values.session import SessionFacts
from mailserver.values.text import printable

PAUSE_SECONDS = 600.0
"""A domain's queue is started from outside once in this time; asking again changes nothing."""

MOST_DOMAINS = 1000
"""Domains whose last start is remembered."""

NOT_ALLOWED = reply(459, "4.7.1", "Not allowed: this domain's mail is not kept here to be fetched")
FAILED = reply(458, "4.3.0", "The queue cannot be started now; please try again later")


class QueueStart:
    """Answers ETRN for the sessions of a listener.

    ``domains`` may be asked for by everybody; any domain by clients of trusted networks and by users
    who have logged in.  ``clock`` gives seconds.
    """

    def __init__(
        self, spool: ISpool, bridge: Bridge, domains: Sequence[str], clock: Callable[[], float]
    ) -> None:
        self._spool = spool
        self._bridge = bridge
        self._domains = {domain_key(domain) for domain in domains}
        self._clock = clock
        self._started: OrderedDict[str, float] = OrderedDict()

    def __call__(self, session: SessionFacts, domain: str) -> Reply | Deferred[Reply]:
        """The reply to ``ETRN domain``."""
        key = domain_key(domain)
        if key not in self._domains and session.account is None and not session.trusted:
            return NOT_ALLOWED
        shown = printable(domain)
        if not self._may_start(key):
            return reply(250, "2.0.0", f"The queue for {shown} was started a short time ago")
        asked: Deferred[int] = self._bridge.deferred(self._spool.expedite(key))
        return asked.addCallbacks(lambda count: _told(shown, count), self._failed, errbackArgs=(key,))

    def _may_start(self, key: str) -> bool:
        """Whether a start is due; floods of ETRN must not become floods of attempts."""
        now = self._clock()
        last = self._started.get(key)
        if last is not None and now - last < PAUSE_SECONDS:
            return False
        self._started[key] = now
        self._started.move_to_end(key)
        if len(self._started) > MOST_DOMAINS:
            self._started.popitem(last=False)
        return True

    def _failed(self, failure: Failure, key: str) -> Reply:
        self._started.pop(key, None)
        maillog.fault("starting a queue (ETRN)", failure.value)
        return FAILED


def _told(domain: str, count: int) -> Reply:
    if not count:
        return reply(251, "2.0.0", f"No messages are waiting for {domain}")
    return reply(253, "2.0.0", f"{count} messages for {domain} are being sent")
