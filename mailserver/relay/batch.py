"""What goes to one destination in one transaction, and what a transaction taught."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from twisted.internet.defer import Deferred

from mailserver.relay.destinations import InLine, Key, News
from mailserver.relay.next_hops import Hop
from mailserver.relay.outcomes import failed_here
from mailserver.relay.sessions import Target
from mailserver.relay.smtp import SMTPSession
from mailserver.values.attempt import Attempt
from mailserver.values.envelope import Entry, Recipient
from mailserver.values.outcome import Outcome
from mailserver.values.reply import Reply
from mailserver.wire.client_commands import speakable
from mailserver.wire.client_events import SessionEnded, Stage, TransactionDone

_AT_THE_DOOR = (Stage.CONNECT, Stage.GREETING, Stage.EHLO, Stage.HELO)

Ledger = dict[int, Outcome]
"""Outcomes so far, by the recipient's number."""


@dataclass(slots=True)
class Batch:
    """What goes in one transaction; ``pending`` are those about whom nothing is decided yet, ``looked`` the
    seconds that finding their next hop took."""

    entry: Entry
    hop: Hop
    pending: list[Recipient]
    ledger: Ledger
    attempts: int
    began: float
    looked: float = 0.0
    troubles: list[tuple[Target, SessionEnded]] = field(default_factory=list)
    tried: list[Attempt] = field(default_factory=list)
    news: News = News.NONE
    reason: str = ""
    moved_on: bool = False
    """Whether a server's 4yz to MAIL sends us to the next exchange."""
    done: Deferred[None] = field(default_factory=Deferred)
    """Fires when nobody is pending any more."""
    place: InLine | None = None
    """Where it stands in line, or stood."""
    behind: Batch | None = None
    """Its commands left with our content: it has our session and our place when we are done."""
    is_behind: bool = False
    """Whether it went with another's content that is not answered yet: nothing of it has begun."""

    @property
    def key(self) -> Key:
        return self.hop.key

    def begins(self, now: float) -> None:
        """It has a place, and nothing is known of what it will meet."""
        self.news = News.NONE
        self.began = now

    def tries(self, attempt: Attempt) -> None:
        """One more address was tried; what was looked up before counts for the first."""
        if self.looked and not self.tried:
            attempt = replace(attempt, looked=self.looked)
        self.tried.append(attempt)

    def settle(self, outcome: Outcome) -> None:
        self.ledger[outcome.recipient.number] = outcome

    def settle_all(self, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            self.settle(outcome)
        self.pending = [r for r in self.pending if r.number not in self.ledger]


def refused_any(ended: TransactionDone | SessionEnded) -> bool:
    """Whether a transaction was anything but well."""
    if isinstance(ended, SessionEnded):
        return True
    return any(reply is None or reply.code >= 400 for reply in ended.replies)


def slows(reply: Reply) -> bool:
    """Whether a reply asks us to come more slowly: 4.7.x is policy, and policy for now is a limit."""
    return reply.code // 100 == 4 and reply.enhanced.startswith("4.7.")


def is_crowded(batch: Batch) -> bool:
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


def is_for_the_next(session: SMTPSession, replies: Sequence[Reply | None]) -> bool:
    """Whether MAIL itself met a 4yz, which every recipient then has as its reply."""
    first = replies[0] if replies else None
    return (
        first is not None
        and first.code // 100 == 4
        and all(reply is first for reply in replies)
        and session.mail_refused
    )


def fit_to_say(entry: Entry, recipients: Sequence[Recipient], ledger: Ledger) -> list[Recipient]:
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
