"""From outcomes to the record: when to try again, when to give up, whom to tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mailserver import maillog
from mailserver.dispatch.bounce import Reporter
from mailserver.interfaces import IDeliveryAgent, IDirectory, Notice, RetrySchedule
from mailserver.values.envelope import Entry, Envelope, Recipient, Waiting
from mailserver.values.expansion import final_recipients
from mailserver.values.outcome import STOPPING, Delayed, Delivered, Failed, Outcome, Relayed


@dataclass(frozen=True, slots=True)
class Ways:
    """The ways out, and what decides between them and about the future; ``failed`` wants to know what has
    failed for good."""

    directory: IDirectory
    local: IDeliveryAgent
    remote: IDeliveryAgent
    retry: RetrySchedule
    reporter: Reporter
    warn_due: Callable[[float, float, bool], bool]
    failed: Callable[[Entry, Sequence[Failed]], None] | None = None


def settle(
    ways: Ways, entry: Entry, outcomes: Sequence[Outcome], now: float, stopping: bool = False
) -> tuple[Sequence[Outcome], list[Notice]]:
    """Give each delayed recipient its next time or its end, and write the reports due.

    ``now`` in seconds since the epoch; where the server is ``stopping``, what was not tried for that alone
    is due when it starts again.
    """
    if not entry.envelope.by_mode and not [one for one in outcomes if not _is_plain(one)]:
        return outcomes, []  # nearly all mail: nothing to decide, nobody to tell
    waiting = {w.recipient.number: w for w in entry.waiting}
    settled: list[Outcome] = [
        _next_time(ways, entry, waiting[o.recipient.number], o, now, stopping)
        if isinstance(o, Delayed)
        else o
        for o in outcomes
    ]
    if ways.failed is not None and (lost := [o for o in settled if isinstance(o, Failed)]):
        ways.failed(entry, lost)
    reports = [ways.reporter.report(entry, settled, now), *ways.reporter.successes(entry, settled, now)]
    late = [o for o in settled if isinstance(o, Delayed) and not waiting[o.recipient.number].warned]
    if late and (ways.warn_due(entry.began, now, False) or _is_over(entry.envelope, now)):
        reports.append(ways.reporter.warning(entry, late, now))
        told = {o.recipient.number for o in late}
        settled = [
            replace(o, warned=True) if isinstance(o, Delayed) and o.recipient.number in told else o
            for o in settled
        ]
    return settled, [_to_final_recipients(ways, notice) for notice in reports if notice is not None]


def _is_plain(outcome: Outcome) -> bool:
    kind = type(outcome)
    return (kind is Delivered or kind is Relayed) and not outcome.recipient.notify


def _next_time(
    ways: Ways, entry: Entry, waiting: Waiting, outcome: Delayed, now: float, stopping: bool
) -> Outcome:
    envelope = entry.envelope
    if stopping and outcome.status == STOPPING:
        return replace(outcome, retry_at=now, warned=waiting.warned)
    if must_return(envelope, now):
        return too_late(outcome.recipient, outcome.diagnostic)
    retry_at = ways.retry(entry.began, waiting.attempts + 1, now)
    if retry_at is not None:
        if now < envelope.deliver_by and not waiting.warned:
            # Whatever BY asks for, return or notice, must not come late.
            retry_at = min(retry_at, envelope.deliver_by)
        return replace(outcome, retry_at=retry_at, warned=waiting.warned)
    return Failed(
        recipient=outcome.recipient,
        status="4.4.7",
        diagnostic=f"Given up after too long a time; the last answer was: {outcome.diagnostic}",
        remote_mta=outcome.remote_mta,
        relay=outcome.relay,
    )


def _is_over(envelope: Envelope, now: float) -> bool:
    return 0 < envelope.deliver_by <= now


def must_return(envelope: Envelope, now: float) -> bool:
    """Whether BY's time is over and the sender wants the message back then (RFC 2852 §4, mode R)."""
    return _is_over(envelope, now) and envelope.by_mode.startswith("R")


def too_late(recipient: Recipient, why: str = "") -> Failed:
    """The end of a message whose time by BY is over (RFC 2852 §5: 5.4.7)."""
    last = f"; the last answer was: {why}" if why else ""
    return Failed(
        recipient=recipient, status="5.4.7", diagnostic=f"Not delivered in the time that BY gave it{last}"
    )


def _to_final_recipients(ways: Ways, notice: Notice) -> Notice:
    """The sender may be an alias. Where the directory cannot say, the report goes to the sender as
    it is, and its own attempt asks again."""
    asked = [(r.address, r.orcpt, r.notify) for r in notice.envelope.recipients]
    try:
        recipients = final_recipients(ways.directory.resolve, asked)
    except Exception as error:
        maillog.fault("asking the directory about a report", error)
        return notice
    return replace(notice, envelope=replace(notice.envelope, recipients=recipients)) if recipients else notice
