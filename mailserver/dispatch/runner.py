"""Takes what is due, sends each recipient its way, records what became of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from mailserver import maillog
from mailserver.dispatch.lanes import UNKNOWN, Lane, Lanes
from mailserver.dispatch.settlement import Ways, must_return, settle, too_late
from mailserver.interfaces import IDeliveryAgent, IRelay, ISpool, Notice, RetrySchedule
from mailserver.threads import Bridge
from mailserver.values.account import Alias, Elsewhere, LocalUser, MailingList
from mailserver.values.envelope import Entry, Recipient, Waiting
from mailserver.values.expansion import final_recipients
from mailserver.values.outcome import Delayed, Expanded, Failed, Outcome, Relayed

POLL_SECONDS = 1.0
"""How often the spool is asked what is due; `mailserver queue retry` is heard as fast as this."""

PAGE = 100
"""Entries asked for at once."""

WHOLE = 1000
"""Recipients of a new message that set out at once; with more it goes page by page."""

RECORD_AGAIN_SECONDS = 5.0
"""How long to wait before outcomes that the spool could not keep are offered again."""


@dataclass(slots=True)
class _Sorted:
    """One entry's recipients by their way; ``settled`` are those that need none."""

    local: list[Waiting] = field(default_factory=list)
    remote: list[Waiting] = field(default_factory=list)
    settled: list[Outcome] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)


class _Early:
    """Records what has been sent while the others of an attempt are under way: a crash must not send it again
    because one of many servers was slow. What is to be reported waits for the end, for one report."""

    def __init__(self, entry: Entry, record: Callable[[Sequence[Outcome]], Deferred[bool]]) -> None:
        self._entry = entry
        self._record = record
        self._numbers: set[int] = set()
        self._recording: list[Deferred[bool]] = []

    def told(self, outcomes: Sequence[Outcome]) -> None:
        """Some of the outcomes are known."""
        if self._entry.envelope.by_mode:
            return
        sent = [one for one in outcomes if type(one) is Relayed and not one.recipient.notify]
        if sent:
            self._numbers.update(one.recipient.number for one in sent)
            self._recording.append(self._record(sent))

    def ended(self, outcomes: Sequence[Outcome]) -> Deferred[bool]:
        """Whether somebody still waits, when all of it is recorded."""
        rest = [one for one in outcomes if one.recipient.number not in self._numbers]
        if rest:
            self._recording.append(self._record(rest))
        together = gatherResults(self._recording, consumeErrors=True)
        return together.addCallback(lambda waits: any(waits))


class Runner(Service):
    """From "due" to "recorded", for every entry of one spool.

    An entry is leased to us from the moment that ``accepted`` or ``ISpool.due`` gives it until its
    outcomes are recorded, so it is under way once at most.  ``clock`` measures intervals; ``now``
    gives seconds since the epoch, which may step.
    """

    name = "runner"

    def __init__(
        self,
        spool: ISpool,
        bridge: Bridge,
        ways: Ways,
        clock: IReactorTime,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._spool = spool
        self._bridge = bridge
        self._ways = ways
        self._clock = clock
        self._now = now
        self._lanes = Lanes(ways.local, ways.remote)
        self._tells_each = IRelay.providedBy(ways.remote)
        self._under_way = 0
        self._turned_away = False
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

    def change(self, schedule: RetrySchedule, warn_due: Callable[[float, float, bool], bool]) -> None:
        """Try again, and warn, by these from now on."""
        self._ways = replace(self._ways, retry=schedule, warn_due=warn_due)

    # -- what is due -----------------------------------------------------------------------

    def accepted(self, entry: Entry) -> None:
        """Start on an entry that was spooled this moment and is leased to us, with all its recipients.

        One with very many goes back, and comes again page by page.
        """
        if self.running and len(entry.waiting) <= WHOLE:
            self._start(entry, whole=True)
        else:
            self._give_back(entry, entry.waiting)

    def _give_back(self, entry: Entry, waiting: Sequence[Waiting], lane: int = UNKNOWN) -> None:
        given = self._spool.give_back(replace(entry, waiting=tuple(waiting)), lane)
        self._bridge.deferred(given).addErrback(_log, "giving back an entry")

    def _ask(self) -> None:
        lanes = self._lanes.with_room
        if self._asking or not lanes:
            return
        self._asking = True
        due = self._bridge.deferred(self._spool.due(self._now(), PAGE, lanes, self._lanes.crowded))
        due.addCallbacks(self._found, self._not_found)

    def _found(self, entries: Sequence[Entry]) -> None:
        self._asking = False
        # What is more urgent sets out first (RFC 6710 §4.1); the order is kept among equals.
        for entry in sorted(entries, key=lambda entry: -entry.envelope.priority):
            if self.running:
                self._start(entry, whole=False)
            else:
                self._give_back(entry, entry.waiting)
        # What belongs in a full lane is given back to wait in it, and not met again while it is full.
        if entries and self.running:
            self._ask()
        self._tell_when_idle()

    def _not_found(self, failure: Failure) -> None:
        self._asking = False
        _log(failure, "reading the spool")
        self._tell_when_idle()

    # -- one entry -------------------------------------------------------------------------

    def _start(self, entry: Entry, whole: bool) -> None:
        """``whole``: no recipient of the entry waits elsewhere."""
        self._under_way += 1
        self._lanes.begin(entry)
        parts = self._parts(entry)
        if len(parts) == 1:  # nearly all mail
            ended = partial(self._ended, entry, whole)
            parts[0].addCallbacks(ended, lambda failure: ended(self._not_recorded(entry, failure)))
            return
        left, waits = len(parts), False

        def part_done(has_delayed: bool) -> None:
            nonlocal left, waits
            left -= 1
            waits = waits or has_delayed
            if not left:
                self._ended(entry, whole, waits)

        for part in parts:
            part.addErrback(partial(self._not_recorded, entry))
            part.addCallback(part_done)
        if not parts:
            self._ended(entry, whole, True)

    def _not_recorded(self, entry: Entry, failure: Failure) -> bool:
        """A bug of ours; as far as the spool knows somebody still waits."""
        _log(failure, f"{entry.queue_id}: recording")
        return True

    def _ended(self, entry: Entry, whole: bool, waits: bool) -> None:
        self._under_way -= 1
        self._lanes.end(entry)
        if not waits and whole:
            maillog.removed(entry)
        elif not waits:
            gone = self._bridge.deferred(self._spool.is_gone(entry.id))
            gone.addCallback(lambda yes: maillog.removed(entry) if yes else None)
            gone.addErrback(_log, f"{entry.queue_id}: looking whether anybody waits")
        self._tell_when_idle()

    def _tell_when_idle(self) -> None:
        if self._idle is not None and not self._under_way and not self._asking:
            idle, self._idle = self._idle, None
            idle.callback(None)

    def _parts(self, entry: Entry) -> list[Deferred[bool]]:
        """The attempts on one entry: local and remote recipients do not wait for each other."""
        ways = self._sort(entry)
        parts = []
        for is_remote, waiting, route in ((False, ways.local, ""), *_by_route(ways.remote)):
            if not waiting:
                continue
            lane = self._lanes.lane(entry, is_remote)
            if lane.has_room:
                agent = self._lanes.agent(is_remote)
                sent = replace(entry, envelope=replace(entry.envelope, route=route)) if route else entry
                parts.append(self._attempt(lane, agent, sent, [one.recipient for one in waiting]))
            else:
                self._turned_away = True
                self._give_back(entry, waiting, lane.number)
                parts.append(_still_waiting())
        if ways.settled:
            parts.append(self._record(entry, ways.notices, ways.settled))
        return parts

    def _sort(self, entry: Entry) -> _Sorted:
        ways = _Sorted()
        for waiting in entry.waiting:
            try:
                self._sort_one(entry, waiting, ways)
            except Exception as error:
                maillog.fault("asking the directory", error, entry.queue_id)
                ways.settled.append(_delayed(waiting.recipient, "The directory cannot be read now"))
        return ways

    def _sort_one(self, entry: Entry, waiting: Waiting, ways: _Sorted) -> None:
        recipient = waiting.recipient
        if recipient.is_expanded:
            ways.settled.append(_expanded(recipient))
            return
        if ordered := waiting.bounce or entry.envelope.bounce:
            ways.settled.append(_returned(recipient, ordered))
            return
        if must_return(entry.envelope, self._now()):
            ways.settled.append(too_late(recipient, waiting.reason))
            return
        answer = self._ways.directory.resolve(recipient.address)
        if isinstance(answer, LocalUser):
            ways.local.append(waiting)
        elif isinstance(answer, Elsewhere):
            ways.remote.append(waiting)
        elif isinstance(answer, Alias | MailingList):
            ways.notices.append(self._forward(entry, recipient))
            ways.settled.append(_expanded(recipient))
        else:
            ways.settled.append(_unknown(recipient))

    def _forward(self, entry: Entry, recipient: Recipient) -> Notice:
        """The address became an alias after acceptance: the same content, to its targets."""
        targets = final_recipients(
            self._ways.directory.resolve, [(recipient.address, recipient.orcpt, recipient.notify)]
        )
        if not targets:
            raise LookupError(f"{recipient.address} expands to nobody")
        # Its time has come, or it would not be here: the copy goes at once.
        envelope = replace(entry.envelope, recipients=targets, release_at=0.0, hold="")
        return Notice(envelope, b"".join(entry.content.chunks()))

    def _attempt(
        self, lane: Lane, agent: IDeliveryAgent, entry: Entry, recipients: Sequence[Recipient]
    ) -> Deferred[bool]:
        count, began = len(recipients), self._now()
        lane.enter(entry, count)

        def left(result: object) -> object:
            lane.leave(entry, count)
            if self._turned_away and lane.is_half_empty and self.running:
                self._turned_away = False
                self._ask()
            return result

        attempt: Deferred[Sequence[Outcome]]
        if count > 1 and agent is self._ways.remote and self._tells_each:
            early = _Early(entry, partial(self._record, entry, (), began=began))
            relay: Any = agent
            attempt = relay.attempt_each(entry, recipients, early.told)
            attempt.addErrback(partial(_agent_failed, entry, recipients))
            return attempt.addCallback(early.ended).addBoth(left)
        record = partial(self._record, entry, (), began=began)
        attempt = agent.attempt(entry, recipients)
        recorded: Deferred[bool] = attempt.addCallbacks(
            record, lambda failure: record(_agent_failed(entry, recipients, failure))
        )
        return recorded.addBoth(left)

    # -- outcomes --------------------------------------------------------------------------

    def _record(
        self,
        entry: Entry,
        notices: Sequence[Notice],
        outcomes: Sequence[Outcome],
        began: float | None = None,
    ) -> Deferred[bool]:
        """Whether one of the recipients still waits, once the outcomes are durable."""
        now = self._now()
        outcomes, reports = settle(self._ways, entry, outcomes, now, not self.running)
        maillog.attempted(entry, outcomes, now, began)
        return self._keep(entry, outcomes, (*notices, *reports))

    def _keep(self, entry: Entry, outcomes: Sequence[Outcome], notices: Sequence[Notice]) -> Deferred[bool]:
        kept = self._bridge.deferred(self._spool.record(entry, outcomes, notices))
        return kept.addCallbacks(
            partial(self._kept, entry, outcomes), partial(self._not_kept, entry, outcomes, notices)
        )

    def _kept(self, entry: Entry, outcomes: Sequence[Outcome], reports: Sequence[Entry]) -> bool:
        for report in reports:
            maillog.notice_spooled(report, entry)
            if not report.envelope.is_kept_back:
                self.accepted(report)
        return any(isinstance(outcome, Delayed) for outcome in outcomes)

    def _not_kept(
        self, entry: Entry, outcomes: Sequence[Outcome], notices: Sequence[Notice], failure: Failure
    ) -> Deferred[bool] | bool:
        # What happened has happened: forgetting it would deliver twice. Offer it until it is kept,
        # or until the server stops: then the next start tries those recipients once more.
        if not self.running:
            _log(failure, f"{entry.queue_id}: recording outcomes; given up, for the server is stopping")
            return True
        _log(failure, f"{entry.queue_id}: recording outcomes; trying again")
        again: Deferred[None] = Deferred()
        self._clock.callLater(RECORD_AGAIN_SECONDS, again.callback, None)
        return again.addCallback(lambda _: self._keep(entry, outcomes, notices))


def _by_route(remote: list[Waiting]) -> list[tuple[bool, list[Waiting], str]]:
    """Remote recipients by the route that an operator ordered for them, ``""`` for none: nearly always."""
    if not any(one.route for one in remote):
        return [(True, remote, "")]
    routes: dict[str, list[Waiting]] = {}
    for one in remote:
        routes.setdefault(one.route, []).append(one)
    return [(True, waiting, route) for route, waiting in routes.items()]


def _still_waiting() -> Deferred[bool]:
    waiting: Deferred[bool] = Deferred()
    waiting.callback(True)
    return waiting


def _agent_failed(entry: Entry, recipients: Sequence[Recipient], failure: Failure) -> Sequence[Outcome]:
    """Agents never fail; one that does has a bug, and its message waits (DESIGN, "Decisions")."""
    maillog.fault("attempting delivery", failure.value, entry.queue_id)
    return [_delayed(recipient, "Internal error; see the server's log") for recipient in recipients]


def _delayed(recipient: Recipient, words: str) -> Outcome:
    return Delayed(recipient=recipient, status="4.3.0", diagnostic=words)


def _unknown(recipient: Recipient) -> Outcome:
    return Failed(recipient=recipient, status="5.1.1", diagnostic="No such user here")


def _returned(recipient: Recipient, reason: str) -> Outcome:
    return Failed(recipient=recipient, status="5.7.0", diagnostic=f"Returned by the postmaster: {reason}")


def _expanded(recipient: Recipient) -> Outcome:
    return Expanded(recipient=recipient, status="2.1.5", diagnostic="Expanded", relay="alias")


def _log(failure: Failure, what: str) -> None:
    maillog.fault(what, failure.value)
