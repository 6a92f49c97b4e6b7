"""Takes what is due, sends each recipient its way, records what became of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from mailserver import maillog
from mailserver.dispatch.bounce import Reporter
from mailserver.interfaces import IDeliveryAgent, IDirectory, ISpool, Notice, RetrySchedule
from mailserver.threads import Bridge
from mailserver.values.account import Alias, Elsewhere, LocalUser
from mailserver.values.envelope import Entry, Recipient, Waiting
from mailserver.values.expansion import final_recipients
from mailserver.values.outcome import Delayed, Delivered, Expanded, Failed, Outcome

POLL_SECONDS = 1.0
"""How often the spool is asked what is due; `mailserver queue retry` is heard as fast as this."""

MOST_ENTRIES = 2000
"""Messages under way at once; more wait in the spool."""

MOST_OCTETS = 64 * 1024 * 1024
"""Content in memory for messages under way; more waits in the spool."""

RECORD_AGAIN_SECONDS = 5.0
"""How long to wait before outcomes that the spool could not keep are offered again."""


@dataclass(frozen=True, slots=True)
class Ways:
    """The ways out, and what decides between them and about the future."""

    directory: IDirectory
    local: IDeliveryAgent
    remote: IDeliveryAgent
    retry: RetrySchedule
    reporter: Reporter
    warn_due: Callable[[float, float, bool], bool]


class Runner(Service):
    """From "due" to "recorded", for every entry of one spool.

    An entry is leased to us from the moment that ``accepted`` or ``ISpool.due`` gives it until its
    outcomes are recorded, so it is under way once at most.
    """

    name = "runner"

    def __init__(self, spool: ISpool, bridge: Bridge, ways: Ways, clock: IReactorTime) -> None:
        self._spool = spool
        self._bridge = bridge
        self._ways = ways
        self._clock = clock
        self._under_way = 0
        self._octets = 0
        self._asking = False
        self._idle: Deferred[None] | None = None
        self._poll = LoopingCall(self._ask)
        self._poll.clock = clock

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._poll.start(POLL_SECONDS)

    def stopService(self) -> Deferred[None] | None:
        """Take nothing new; done when everything under way is recorded."""
        super().stopService()  # type: ignore[no-untyped-call]
        if self._poll.running:
            self._poll.stop()
        if not self._under_way and not self._asking:
            return None
        self._idle = Deferred()
        return self._idle

    # -- what is due -----------------------------------------------------------------------

    def accepted(self, entry: Entry) -> None:
        """Start on an entry that was spooled this moment and is leased to us."""
        if self.running and self._has_room():
            self._start(entry)
        else:
            self._give_back(entry)

    def _has_room(self) -> bool:
        return self._under_way < MOST_ENTRIES and self._octets < MOST_OCTETS

    def _give_back(self, entry: Entry) -> None:
        self._bridge.deferred(self._spool.give_back(entry)).addErrback(_log, "giving back an entry")

    def _ask(self) -> None:
        if self._asking or not self._has_room():
            return
        self._asking = True
        due = self._bridge.deferred(
            self._spool.due(self._clock.seconds(), min(100, MOST_ENTRIES - self._under_way))
        )
        due.addCallbacks(self._found, self._not_found)

    def _found(self, entries: Sequence[Entry]) -> None:
        self._asking = False
        for entry in entries:
            self.accepted(entry)
        if entries and self.running:
            self._ask()
        self._tell_when_idle()

    def _not_found(self, failure: Failure) -> None:
        self._asking = False
        _log(failure, "reading the spool")
        self._tell_when_idle()

    # -- one entry -------------------------------------------------------------------------

    def _start(self, entry: Entry) -> None:
        self._under_way += 1
        self._octets += entry.content.size
        parts = self._parts(entry)
        left = len(parts)

        def part_done(_: object) -> None:
            nonlocal left
            left -= 1
            if not left:
                self._done(entry)

        for part in parts:
            part.addErrback(_log, f"{entry.queue_id}: recording")
            part.addCallback(part_done)

    def _done(self, entry: Entry) -> None:
        self._under_way -= 1
        self._octets -= entry.content.size
        self._tell_when_idle()

    def _tell_when_idle(self) -> None:
        if self._idle is not None and not self._under_way and not self._asking:
            idle, self._idle = self._idle, None
            idle.callback(None)

    def _parts(self, entry: Entry) -> list[Deferred[None]]:
        """The attempts on one entry: local and remote recipients do not wait for each other."""
        local: list[Recipient] = []
        remote: list[Recipient] = []
        settled: list[Outcome] = []
        notices: list[Notice] = []
        for waiting in entry.waiting:
            recipient = waiting.recipient
            if recipient.is_expanded:
                settled.append(_expanded(recipient))
                continue
            try:
                answer = self._ways.directory.resolve(recipient.address)
            except Exception as error:
                maillog.fault("asking the directory", error, entry.queue_id)
                settled.append(_delayed(recipient, "The directory cannot be read now"))
                continue
            if isinstance(answer, LocalUser):
                local.append(recipient)
            elif isinstance(answer, Elsewhere):
                remote.append(recipient)
            elif isinstance(answer, Alias):
                notices.append(self._forward(entry, recipient))
                settled.append(_expanded(recipient))
            else:
                settled.append(_unknown(recipient))
        parts = []
        if local:
            parts.append(self._attempt(self._ways.local, entry, local))
        if remote:
            parts.append(self._attempt(self._ways.remote, entry, remote))
        if settled:
            parts.append(self._record(entry, settled, notices))
        return parts

    def _forward(self, entry: Entry, recipient: Recipient) -> Notice:
        """The address became an alias after acceptance: the same content, to its targets."""
        targets = final_recipients(
            self._ways.directory.resolve, [(recipient.address, recipient.orcpt, recipient.notify)]
        )
        # Its time has come, or it would not be here: the copy goes at once.
        envelope = replace(entry.envelope, recipients=targets, release_at=0.0, hold="")
        return Notice(envelope, b"".join(entry.content.chunks()))

    def _attempt(
        self, agent: IDeliveryAgent, entry: Entry, recipients: Sequence[Recipient]
    ) -> Deferred[None]:
        attempt: Deferred[Sequence[Outcome]] = agent.attempt(entry, recipients)
        attempt.addErrback(partial(_agent_failed, entry, recipients))
        return attempt.addCallback(partial(self._record, entry))

    # -- outcomes --------------------------------------------------------------------------

    def _record(
        self, entry: Entry, outcomes: Sequence[Outcome], notices: Sequence[Notice] = ()
    ) -> Deferred[None]:
        now = self._clock.seconds()
        if not all(type(one) is Delivered and not one.recipient.notify for one in outcomes):
            outcomes, reports = self._settle(entry, outcomes, now)
            notices = (*notices, *reports)
        maillog.attempted(entry, outcomes, now)
        return self._keep(entry, outcomes, notices)

    def _settle(
        self, entry: Entry, outcomes: Sequence[Outcome], now: float
    ) -> tuple[list[Outcome], list[Notice]]:
        """Give each delayed recipient its next time or its end, and write the reports due."""
        waiting = {w.recipient.number: w for w in entry.waiting}
        settled = [
            self._next_time(entry, waiting[o.recipient.number], o, now) if isinstance(o, Delayed) else o
            for o in outcomes
        ]
        ways = self._ways
        reports = [ways.reporter.report(entry, settled, now), *ways.reporter.successes(entry, settled, now)]
        late = [o for o in settled if isinstance(o, Delayed) and not waiting[o.recipient.number].warned]
        if late and ways.warn_due(entry.began, now, False):
            reports.append(ways.reporter.warning(entry, late, now))
            told = {o.recipient.number for o in late}
            settled = [
                replace(o, warned=True) if isinstance(o, Delayed) and o.recipient.number in told else o
                for o in settled
            ]
        return settled, [self._to_final_recipients(notice) for notice in reports if notice is not None]

    def _next_time(self, entry: Entry, waiting: Waiting, outcome: Delayed, now: float) -> Outcome:
        retry_at = self._ways.retry(entry.began, waiting.attempts + 1, now)
        if retry_at is not None:
            return replace(outcome, retry_at=retry_at, warned=waiting.warned)
        return Failed(
            recipient=outcome.recipient,
            status="4.4.7",
            diagnostic=f"Given up after too long a time; the last answer was: {outcome.diagnostic}",
            remote_mta=outcome.remote_mta,
            relay=outcome.relay,
        )

    def _to_final_recipients(self, notice: Notice) -> Notice:
        asked = [(r.address, r.orcpt, r.notify) for r in notice.envelope.recipients]
        recipients = final_recipients(self._ways.directory.resolve, asked)
        return replace(notice, envelope=replace(notice.envelope, recipients=recipients))

    def _keep(self, entry: Entry, outcomes: Sequence[Outcome], notices: Sequence[Notice]) -> Deferred[None]:
        kept = self._bridge.deferred(self._spool.record(entry, outcomes, notices))
        return kept.addCallbacks(
            partial(self._kept, entry, outcomes), partial(self._not_kept, entry, outcomes, notices)
        )

    def _kept(self, entry: Entry, outcomes: Sequence[Outcome], reports: Sequence[Entry]) -> None:
        if not any(isinstance(outcome, Delayed) for outcome in outcomes):
            maillog.removed(entry)
        for report in reports:
            maillog.notice_spooled(report, entry)
            if not report.envelope.is_kept_back:
                self.accepted(report)

    def _not_kept(
        self, entry: Entry, outcomes: Sequence[Outcome], notices: Sequence[Notice], failure: Failure
    ) -> Deferred[None]:
        # What happened has happened: forgetting it would deliver twice. Offer it until it is kept.
        _log(failure, f"{entry.queue_id}: recording outcomes; trying again")
        again: Deferred[None] = Deferred()
        self._clock.callLater(RECORD_AGAIN_SECONDS, again.callback, None)
        return again.addCallback(lambda _: self._keep(entry, outcomes, notices))


def _agent_failed(entry: Entry, recipients: Sequence[Recipient], failure: Failure) -> Sequence[Outcome]:
    """Agents never fail; one that does has a bug, and its message waits (DESIGN, "Decisions")."""
    maillog.fault("attempting delivery", failure.value, entry.queue_id)
    return [_delayed(recipient, "Internal error; see the server's log") for recipient in recipients]


def _delayed(recipient: Recipient, words: str) -> Outcome:
    return Delayed(recipient=recipient, status="4.3.0", diagnostic=words)


def _unknown(recipient: Recipient) -> Outcome:
    return Failed(recipient=recipient, status="5.1.1", diagnostic="No such user here")


def _expanded(recipient: Recipient) -> Outcome:
    return Expanded(recipient=recipient, status="2.1.5", diagnostic="Expanded", relay="alias")


def _log(failure: Failure, what: str) -> None:
    maillog.fault(what, failure.value)
