"""One mail transaction: MAIL and RCPT become facts, policy decides, content goes to the spool."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from mailserver import maillog
from mailserver.group_commit import GroupCommit
from mailserver.interfaces import IDirectory, ISpool, ISpoolWriter, SpoolFull
from mailserver.receive.header import HEADER_OCTETS, MOST_HOPS, HeaderReader
from mailserver.receive.submission import Submission
from mailserver.receive.submitted import SubmittedHeader
from mailserver.threads import Bridge
from mailserver.values.address import Address
from mailserver.values.envelope import Entry, Envelope, Recipient, queue_id
from mailserver.values.expansion import final_recipients
from mailserver.values.reply import Reply, reply
from mailserver.values.session import RecipientFacts, SessionFacts, TransactionFacts
from mailserver.values.trace import received
from mailserver.wire.smtp_events import MailFrom, RcptTo

OK_SENDER = reply(250, "2.1.0", "Sender ok")
OK_RECIPIENT = reply(250, "2.1.5", "Recipient ok")
GO_ON = reply(354, "", "End data with <CR><LF>.<CR><LF>")
TRY_LATER = reply(451, "4.3.0", "Local error, nothing was kept; please try again later")
NO_ROOM = reply(452, "4.3.1", "No room for your message now; please try again later")
LEADS_NOWHERE = reply(451, "4.3.5", "The recipients' aliases lead nowhere now; please try again later")
LOOPS = reply(554, "5.4.6", "A mail loop: Delivered-To says that the message has been here before")
HEADER_TOO_LONG = reply(552, "5.3.4", f"The header is longer than {HEADER_OCTETS} octets")
TOO_MANY_HOPS = reply(554, "5.4.6", f"Too many hops: more than {MOST_HOPS} Received fields; a mail loop?")


class Decide(Protocol):
    def __call__(self, facts: RecipientFacts, /) -> Reply | Awaitable[Reply | None] | None: ...


class Terminals(Protocol):
    """``terminals.registry.Terminals``."""

    def has(self, address: Address, /) -> bool: ...

    def show(self, address: Address, sender: Address, content: Iterable[bytes], /) -> Deferred[bool]: ...


Attempt = Callable[[Entry, Callable[[Entry], None]], "Deferred[Sequence[Recipient]] | None"]
"""``dispatch.at_once``: try to finish an entry that is not committed."""


@dataclass(frozen=True, slots=True)
class Intake:
    """What every transaction needs, handed in by ``house.py`` and ``assembly/doors.py``.

    ``now`` gives seconds since the epoch; ``accepted`` takes over an entry that has been committed;
    ``submission`` is what holds for those who have logged in; ``terminals`` finds those of users.
    ``at_once`` may finish an entry before it is committed, and gives those of its recipients who are
    left; ``None``: not this one.  ``group`` hears which transactions are under way.
    """

    hostname: str
    spool: ISpool
    directory: IDirectory
    bridge: Bridge
    may_receive: Decide
    accepted: Callable[[Entry], None]
    now: Callable[[], float]
    submission: Submission | None = None
    terminals: Terminals | None = None
    at_once: Attempt | None = None
    group: GroupCommit | None = None


class Transaction:
    """From MAIL to the end of data. Every way out but ``finish`` leads through ``abort``."""

    def __init__(
        self, intake: Intake, session: SessionFacts, mail: MailFrom, requests: Mapping[str, Any]
    ) -> None:
        """``requests`` are the fields of the envelope that MAIL's rarer parameters set."""
        self.facts = TransactionFacts(session, mail.path, mail.size)
        self._intake = intake
        self._mail = mail
        self._requests = requests
        self._has_eight_bit = False
        self._asked: list[tuple[Address, str, frozenset[str]]] = []
        self._envelope: Envelope | None = None
        self._writer: ISpoolWriter | None = None
        self._header = HeaderReader()
        self._submission = intake.submission if session.account is not None else None
        self._submitted = self._header_of_ours()
        if intake.group is not None:
            intake.group.began(self)

    def _header_of_ours(self) -> SubmittedHeader | None:
        """A reader that mends the header of somebody who has logged in, and looks whose it is."""
        account, submission = self.facts.session.account, self._submission
        if account is None or submission is None:
            return None
        return SubmittedHeader(account.address, partial(submission.may_use, account), self._intake.hostname)

    def _charge(self) -> str | Awaitable[str]:
        """The reason to hold a message of somebody who has logged in, or ``""``."""
        account, submission = self.facts.session.account, self._submission
        if account is None or submission is None:
            return ""
        try:
            return submission.charge(account, self.facts.recipients)
        except Exception as error:
            # Counting is a service to others; that it fails is no reason to refuse anybody's mail.
            maillog.fault("counting a submission", error)
            return ""

    def recipient(self, rcpt: RcptTo) -> Reply | Deferred[Reply]:
        """Ask policy about one forward-path."""
        try:
            resolution = self._intake.directory.resolve(rcpt.path)
            opinion = self._intake.may_receive(RecipientFacts(self.facts, rcpt.path, resolution))
        except Exception as error:
            return self._rule_failed(rcpt, error)
        if opinion is None or isinstance(opinion, Reply):
            return self._recipient_decided(rcpt, opinion)
        return Deferred.fromCoroutine(self._recipient_later(rcpt, opinion))

    async def _recipient_later(self, rcpt: RcptTo, opinion: Awaitable[Reply | None]) -> Reply:
        try:
            decided = await opinion
        except Exception as error:
            return self._rule_failed(rcpt, error)
        return self._recipient_decided(rcpt, decided)

    def _rule_failed(self, rcpt: RcptTo, error: BaseException) -> Reply:
        # A fault of ours is never the sender's: 4xx, and the message comes again.
        maillog.fault(f"deciding on RCPT TO:<{rcpt.path}>", error)
        return TRY_LATER

    def _recipient_decided(self, rcpt: RcptTo, opinion: Reply | None) -> Reply:
        if opinion is not None:
            facts = self.facts
            rule, facts.decided_by = facts.decided_by, ""
            return maillog.refused(opinion, "RCPT", facts.session, facts.reverse_path, rcpt.path, rule)
        self._asked.append((rcpt.path, rcpt.orcpt, rcpt.notify))
        self.facts.recipients.append(rcpt.path)
        return OK_RECIPIENT

    def begin_content(self) -> Reply:
        """Open a place in the spool and put the Received field there."""
        intake, session = self._intake, self.facts.session
        try:
            recipients = final_recipients(intake.directory.resolve, self._asked)
            writer = self._new_writer()
        except OverflowError as error:
            maillog.fault("expanding recipients", error)
            return LEADS_NOWHERE
        except SpoolFull:
            return NO_ROOM
        except Exception as error:
            maillog.fault("beginning a message", error)
            return TRY_LATER
        if not recipients:
            writer.abort()
            return LEADS_NOWHERE
        mail = self._mail
        # Binary parts have become base64 on their way in, other parts may have 8-bit text.
        body = "8BITMIME" if mail.body == "BINARYMIME" else mail.body
        self._envelope = Envelope(mail.path, recipients, body, mail.smtputf8, ret=mail.ret, envid=mail.envid)
        if self._requests:
            self._envelope = replace(self._envelope, **self._requests)
        self._writer = writer
        only = self._asked[0][0] if len(self._asked) == 1 else None
        now, submission = intake.now(), self._submission
        hidden = submission is not None and submission.hide_client
        if submission is not None and submission.delay:
            release_at = max(self._envelope.release_at, now + submission.delay)
            self._envelope = replace(self._envelope, release_at=release_at)
        writer.write(
            received(session, intake.hostname, queue_id(writer.id), now, mail.smtputf8, only, hidden)
        )
        return GO_ON

    def _new_writer(self) -> ISpoolWriter:
        """Where the message goes."""
        writer: ISpoolWriter = self._intake.spool.begin()
        return writer

    def write(self, chunk: bytes) -> Future[None] | None:
        """Keep a piece of content; a future asks the caller to wait for the disk."""
        assert self._writer is not None
        if not chunk.isascii():
            self._has_eight_bit = True
        if self._submitted is not None:
            chunk = self._submitted.feed(chunk)
        kept = self._header.feed(chunk)
        return self._writer.write(kept) if kept else None

    def finish(self, fault: Reply | None) -> Reply | Deferred[Reply]:
        """At the end of data: refuse, or commit and only then say 250."""
        assert self._writer is not None
        assert self._envelope is not None
        if self._intake.group is not None:
            self._intake.group.complete(self)
        if self._submitted is not None and (rest := self._header.feed(self._submitted.finish())):
            self._writer.write(rest)
        fault = fault or self._header_fault(self._envelope)
        if fault is not None:
            self.abort()
            return self._log_refusal(fault)
        if rest := self._header.finish():
            self._writer.write(rest)
        self._envelope = self._as_it_came(self._envelope)
        charged = self._charge()
        if not isinstance(charged, str):
            return Deferred.fromCoroutine(self._commit_later(charged))
        return self._commit(charged)

    async def _commit_later(self, charged: Awaitable[str]) -> Reply:
        try:
            hold = await charged
        except Exception as error:
            maillog.fault("counting a submission", error)
            hold = ""
        return await self._commit(hold)

    def _commit(self, hold: str) -> Deferred[Reply]:
        writer, envelope = self._writer, self._envelope
        if writer is None or envelope is None:  # the client went while its usage was read
            return succeed(TRY_LATER)
        self._writer = None
        if hold:
            return self._keep(writer, replace(envelope, hold=hold))
        return self._finish_at_once(writer, envelope) or self._keep(writer, envelope)

    def _keep(self, writer: ISpoolWriter, envelope: Envelope) -> Deferred[Reply]:
        committed = self._intake.bridge.deferred(writer.commit(envelope))
        return committed.addCallbacks(self._committed, self._not_committed)

    def _finish_at_once(self, writer: ISpoolWriter, envelope: Envelope) -> Deferred[Reply] | None:
        """The answer after an attempt before the commit, where the message allows one."""
        if self._intake.at_once is None or (entry := writer.entry(envelope)) is None:
            return None
        if isinstance(entry, Entry):
            return self._try(writer, entry)
        return self._intake.bridge.deferred(entry).addCallbacks(
            lambda entry: self._try(writer, entry) or self._keep(writer, envelope),
            lambda _: self._keep(writer, envelope),  # which tells the same failure
        )

    def _try(self, writer: ISpoolWriter, entry: Entry) -> Deferred[Reply] | None:
        """The answer after an attempt; ``None`` when the message is to be kept first."""
        if self._intake.at_once is None:
            return None
        attempt = self._intake.at_once(entry, self._log_accepted)
        if attempt is None:
            return None
        return attempt.addCallbacks(
            partial(self._tried, writer, entry), partial(self._not_tried, writer, entry.envelope)
        )

    def _tried(
        self, writer: ISpoolWriter, entry: Entry, left: Sequence[Recipient]
    ) -> Reply | Deferred[Reply]:
        if left:  # they are kept like those of any other message, and 250 waits for that
            return self._keep(writer, replace(entry.envelope, recipients=tuple(left)))
        writer.abort()
        return self._taken(entry)

    def _not_tried(self, writer: ISpoolWriter, envelope: Envelope, failure: Failure) -> Deferred[Reply]:
        maillog.fault("delivering before the answer", failure.value)
        return self._keep(writer, envelope)

    def _as_it_came(self, envelope: Envelope) -> Envelope:
        """The envelope, and what only the content could tell."""
        if self._has_eight_bit and envelope.body == "7BIT":
            # Not announced, but taken: the next server is told what it will get (RFC 6152 §3).
            envelope = replace(envelope, body="8BITMIME")
        if self._header.priority and self.facts.session.trusted and not envelope.priority:
            envelope = replace(envelope, priority=self._header.priority)
        if self._header.says_tls_is_optional and not envelope.require_tls:
            envelope = replace(envelope, tls_optional=True)
        return envelope

    def _header_fault(self, envelope: Envelope) -> Reply | None:
        header = self._header
        if self._submitted is not None and self._submitted.refusal is not None:
            return self._submitted.refusal
        if header.is_too_long:
            return HEADER_TOO_LONG
        if header.hops > MOST_HOPS:
            return TOO_MANY_HOPS
        # A loop is refused here: a bounce later would go to whomever a stranger named as the sender.
        # Lists and forwards leave their own address behind, which is the recipient's ``original``.
        if header.delivered_to and any(
            str(address).lower().encode() in header.delivered_to
            for one in envelope.recipients
            for address in (one.address, one.original)
        ):
            return LOOPS
        return None

    def _committed(self, entry: Entry) -> Reply:
        self._log_accepted(entry)
        if not entry.envelope.is_kept_back:
            self._intake.accepted(entry)
        elif entry.envelope.hold and self._submission is not None and self.facts.session.account is not None:
            self._submission.held(self.facts.session.account, entry)
        return self._taken(entry)

    def _log_accepted(self, entry: Entry) -> None:
        maillog.accepted(entry, self.facts.session, self._header.message_id, self.facts.notes)

    def _taken(self, entry: Entry) -> Reply:
        asked, priority = self._mail.priority, entry.envelope.priority
        if asked and priority < asked:
            return reply(250, "2.3.6", f"Ok: queued as {entry.queue_id} with the priority {priority}")
        return reply(250, "2.0.0", f"Ok: queued as {entry.queue_id}")

    def _not_committed(self, failure: Failure) -> Reply:
        answer = NO_ROOM if failure.check(SpoolFull) else TRY_LATER
        maillog.fault("committing a message", failure.value)
        return self._log_refusal(answer)

    def _log_refusal(self, answer: Reply) -> Reply:
        facts = self.facts
        return maillog.refused(
            answer, "DATA", facts.session, facts.reverse_path, facts.recipients[0], facts.decided_by
        )

    def abort(self) -> None:
        """Nothing of this transaction is kept. Harmless at any time."""
        if self._intake.group is not None:
            self._intake.group.ended(self)
        if self._writer is not None:
            self._writer.abort()
            self._writer = None
        self._asked.clear()
