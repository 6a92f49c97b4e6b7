"""One function for each event in a message's life, with fixed fields, in Postfix's words.

The words are Postfix's because people and programs (pflogsumm, fail2ban) read them already.  An
event is one line whatever strangers send, and passwords, AUTH lines and content never reach it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.logger import FileLogObserver, Logger, LogPublisher
from twisted.python.failure import Failure

from mailserver.values.address import Address
from mailserver.values.envelope import Entry, Envelope
from mailserver.values.outcome import Delayed, Delivered, Expanded, Failed, Outcome, Relayed
from mailserver.values.reply import Reply
from mailserver.values.session import SessionFacts
from mailserver.values.text import printable
from mailserver.values.trace import transmission_type

log = Logger(namespace="mail")

SMTPD, QMGR, SMTP, BOUNCE, CLEANUP, ERROR = "smtpd", "qmgr", "smtp", "bounce", "cleanup", "error"
POP3 = "pop3"
"""Which of Postfix's programs would have said it: pflogsumm and fail2ban look for them."""

_PROGRAMS = {"maildir": "virtual", "mbox": "virtual", "alias": "local", "command": "pipe", "lmtp": "lmtp"}
_PROGRAMS |= {"discard": "discard", "list": "local"}
_PHRASES = {
    "no such user here": "Recipient address rejected: User unknown in local recipient table",
    "relaying is for users": "Relay access denied",
}
"""Postfix's words for refusals of ours: fail2ban's filter counts those who meet them."""

_STATUS = {Delivered: "sent", Relayed: "sent", Expanded: "sent", Delayed: "deferred", Failed: "bounced"}


EXPIRED = "4.4.7"
"""The status of what was tried until its time was over (RFC 3463 §3.5)."""


def _status(outcome: Outcome) -> str:
    # Postfix says of an expired message's recipients that they were deferred, and then that it expired.
    return "deferred" if outcome.status == EXPIRED else _STATUS[type(outcome)]


class Trace(Protocol):
    """Who else is told of each event, with everything that is known; ``trace/recorder.py``. Never waits."""

    def accepted(
        self,
        entry: Entry,
        session: SessionFacts | None,
        message_id: str = "",
        notes: Sequence[tuple[str, str]] = (),
        how: str = "",
    ) -> None: ...

    def attempted(self, entry: Entry, outcomes: Sequence[Outcome]) -> None: ...

    def reported(self, made: Entry, about: Entry) -> None: ...

    def held(self, entry: Entry) -> None: ...

    def removed(self, entry: Entry) -> None: ...

    def refused(
        self,
        reply: Reply,
        command: str,
        session: SessionFacts,
        sender: Address | None = None,
        recipient: Address | None = None,
        rule: str = "",
    ) -> Reply: ...


_trace: Trace | None = None


def tell(trace: Trace | None) -> None:
    """Tell ``trace`` too, from now on; ``None`` for nobody."""
    global _trace
    _trace = trace


def accepted(
    entry: Entry,
    session: SessionFacts,
    message_id: str = "",
    notes: Sequence[tuple[str, str]] = (),
) -> None:
    """The message is ours: the commit has been made and 250 is on its way."""
    if _trace is not None:
        _trace.accepted(entry, session, message_id, notes)
    login = f", sasl_username={printable(str(session.account.address))}" if session.account else ""
    queue_id = entry.queue_id
    _say(
        f"{queue_id}: client=unknown[{session.client_host}], "
        f"proto={transmission_type(session, entry.envelope.smtputf8)}, helo=<{session.hello}>{login}",
        SMTPD,
    )
    _say(
        f"{queue_id}: from=<{printable(str(entry.envelope.reverse_path))}>, size={entry.content.size}, "
        f"nrcpt={len(entry.envelope.recipients)} (queue active)",
        QMGR,
    )


def made(entry: Entry, how: str, message_id: str = "") -> None:
    """A message that came by no session is ours: ``how`` tells where it is from. The log has its own line."""
    if _trace is not None:
        _trace.accepted(entry, None, message_id, (), how)


def notice_spooled(entry: Entry, about: Entry) -> None:
    """A report of our own about ``about`` is in the spool."""
    if _trace is not None:
        _trace.reported(entry, about)
    _say(f"{about.queue_id}: sender delivery status notification: {entry.queue_id}", BOUNCE)


def refused(
    reply: Reply, command: str, session: SessionFacts, sender: Address, recipient: Address, rule: str = ""
) -> Reply:
    """Policy, or a fault of ours, said no to a recipient or a message; the reply to send, with its mark."""
    if _trace is not None:
        reply = _trace.refused(reply, command, session, sender, recipient, rule)
    to = printable(str(recipient))
    said = next((said for word, said in _PHRASES.items() if word in reply.text), "")
    text = f"{reply.code} {reply.enhanced} <{to}>: {said}" if said and command == "RCPT" else reply.text
    _say(
        f"NOQUEUE: reject: {command} from unknown[{session.client_host}]: {printable(text)}; "
        f"from=<{printable(str(sender))}> to=<{to}> "
        f"proto={'ESMTP' if session.extended else 'SMTP'} helo=<{session.hello}>",
        SMTPD,
    )
    return reply


def said_no(reply: Reply, session: SessionFacts, command: str = "") -> Reply:
    """A command was refused, which is no event of its own in the log; the reply to send, with its mark."""
    return reply if _trace is None else _trace.refused(reply, command, session)


def shown(envelope: Envelope, recipients: int, session: SessionFacts) -> None:
    """A message for terminals alone (SEND) was shown to so many of its recipients; nothing is kept of it."""
    _say(
        f"terminal: client=unknown[{session.client_host}], from=<{printable(str(envelope.reverse_path))}>, "
        f"shown to {recipients} of {len(envelope.recipients)}",
        SMTPD,
    )


def turned_away(protocol: str, client: str, why: str) -> None:
    """A connection was closed before anything was said: too many, no mail, an early talker."""
    _say(f"{protocol}: connection from unknown[{client}] turned away: {printable(why)}", SMTPD)


def pressed(is_pressed: bool, connections: int, most: int) -> None:
    """Half of the connections are in use and the limits tighten, or they loosen again."""
    state = "tightened" if is_pressed else "loosened"
    _say(f"warning: limits {state}: {connections} of {most} connections in use", SMTPD)


def attempted(entry: Entry, outcomes: Sequence[Outcome], now: float, began: float | None = None) -> None:
    """What became of each recipient in one attempt that began at ``began``, in seconds since the epoch."""
    if _trace is not None:
        _trace.attempted(entry, outcomes)
    arrived = entry.arrived
    delay = _seconds(now - arrived)
    is_over = False
    for outcome in outcomes:
        recipient, facts = outcome.recipient, outcome.facts
        original = ""
        if recipient.original != recipient.address:
            original = f", orig_to=<{printable(str(recipient.original))}>"
        setup, sending = (facts.setup, facts.sending) if facts else (0.0, now - (began or now))
        used = f", conn_use={facts.uses}" if facts and facts.uses > 1 else ""
        # Before the queue, in it, connection set up, transmission (Postfix's log_adhoc).
        waited = _seconds(now - arrived - setup - sending)
        _say(
            f"{entry.queue_id}: to=<{printable(str(recipient.address))}>{original}, "
            f"relay={outcome.relay}{used}, delay={delay}, "
            f"delays=0/{waited}/{_seconds(setup)}/{_seconds(sending)}, dsn={outcome.status}, "
            f"status={_status(outcome)} ({printable(outcome.diagnostic)})",
            SMTP if facts is not None else _PROGRAMS.get(outcome.relay, ERROR),
        )
        is_over = is_over or (type(outcome) is Failed and outcome.status == EXPIRED)
    if is_over:  # once for all recipients; pflogsumm counts these
        sender = printable(str(entry.envelope.reverse_path))
        _say(f"{entry.queue_id}: from=<{sender}>, status=expired, returned to sender", QMGR)


def _seconds(value: float) -> str:
    """As Postfix writes delays: hundredths below one second, tenths below ten, else whole."""
    if value <= 0.005:
        return "0"
    if value < 1.0:
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return f"{value:.1f}".removesuffix(".0") if value < 10.0 else f"{value:.0f}"


def held(entry: Entry) -> None:
    """The message waits until somebody releases it."""
    if _trace is not None:
        _trace.held(entry)
    _say(f"{entry.queue_id}: hold: {printable(entry.envelope.hold)}", CLEANUP)


def tls_established(where: str, version: str, cipher: str, verified_by: str) -> None:
    """A session with another server is encrypted; who vouched for the server, ``""`` for nobody."""
    trust, by = ("Verified", f" by {verified_by}") if verified_by else ("Untrusted", "")
    _say(f"{trust} TLS connection established to {where}: {version} with cipher {cipher}{by}", SMTP)


def removed(entry: Entry) -> None:
    """Nobody waits for the message any more."""
    if _trace is not None:
        _trace.removed(entry)
    _say(f"{entry.queue_id}: removed", QMGR)


def login(protocol: str, client: str, user: str, tls: bool) -> None:
    """Somebody proved who they are."""
    _say(f"{protocol}: login: user=<{printable(user)}>, rip={client}{', TLS' if tls else ''}", SMTPD)


def expired(mailbox: str, count: int) -> None:
    """Messages were older than they are kept; ``mailbox`` as it is called below the store's folder."""
    _say(f"expired: mailbox=<{printable(mailbox)}>, removed={count}", SMTPD)


def proxied(protocol: str, client: str, session: str) -> None:
    """A proxy speaks for ``client``, and calls the session so in its own log."""
    _say(f"{protocol}: proxied: rip={client}, session=<{printable(session)}>", SMTPD)


def login_failed(protocol: str, client: str, user: str, mechanism: str) -> None:
    """Somebody did not; ``user`` is what they called themselves."""
    _say(
        f"warning: unknown[{client}]: SASL {mechanism} authentication failed: {protocol}, "
        f"user=<{printable(user, 100)}>",
        SMTPD,
    )


def pop3_session(
    client: str, user: str, reason: str, retrieved: int, octets: int, deleted: int, left: int
) -> None:
    """A POP3 session that had logged in is over."""
    _say(
        f"pop3: {printable(reason)}: user=<{printable(user)}>, rip={client}, "
        f"retr={retrieved}/{octets}, del={deleted}/{left}",
        POP3,
    )


def fault(where: str, error: BaseException | None, queue_id: str = "NOQUEUE") -> None:
    """Something of ours went wrong; the message it happened to is safe, and this is where to look."""
    log.critical(
        "{queue_id}: {where}: {error}",
        queue_id=queue_id,
        where=printable(where),
        error=printable(repr(error)),
        log_failure=Failure(error) if error is not None else None,
    )


def trace_trouble(what: str) -> None:
    """The trace loses records; mail goes on. Called in any thread."""
    log.error("trace: {what}", what=printable(what))


def ledger(line: str, missing: int) -> None:
    """The books were kept: how many messages have their end, wait, or are missing."""
    _say(f"{'warning: ' if missing else ''}ledger: {line}", QMGR)


def misconfigured(what: str, queue_id: str) -> None:
    """Something that an administrator has to mend keeps a message waiting."""
    log.warn("{queue_id}: {what}", queue_id=queue_id, what=printable(what))


# -- where the lines go ------------------------------------------------------------------------


def _through_the_logger(line: str, program: str) -> None:
    log.info("{line}", line=line)


def _nothing() -> None:
    pass


_say: Callable[[str, str], None] = _through_the_logger
_last_words: Callable[[], None] = _nothing


def write_directly(publisher: LogPublisher, call_soon: Callable[[Callable[[], None]], object]) -> bool:
    """Write lines straight into the text file that ``publisher`` writes to, if that is all it does.

    Twisted's logger takes 70 to 110 µs of processor time for an event in a text file, three times
    for each message; a line formatted here takes about 5.  Lines have the form of a Postfix log (RFC 3339
    time, host, ``postfix/program[pid]:``), so that programs which read those read ours, and all of one
    reactor turn are written at once: ``call_soon`` runs what it is given when the turn ends.  With
    any other observer (syslog, JSON, a test's) events keep going through the logger.  Whether it is
    so is the answer.
    """
    global _say, _last_words
    file = text_file(publisher)
    if file is None:
        return False
    lines = _Lines(file, call_soon)
    _say, _last_words = lines.add, lines.write
    return True


def write_through_the_logger() -> None:
    """Undo ``write_directly``, with nothing left unwritten."""
    global _say, _last_words
    _last_words()
    _say, _last_words = _through_the_logger, _nothing


def text_file(publisher: LogPublisher) -> Any | None:
    """The text file that ``publisher`` writes to, if that is all it does; it has ``write`` and ``flush``."""
    observers: list[Any] = getattr(publisher, "_observers", [])
    files = [getattr(o, "_outFile", None) for o in observers if isinstance(o, FileLogObserver)]
    return files[0] if len(files) == len(observers) == 1 else None


class _Lines:
    """Lines of one reactor turn, on their way into one text file."""

    def __init__(self, file: Any, call_soon: Callable[[Callable[[], None]], object]) -> None:
        self._file = file
        self._call_soon = call_soon
        self._lines: list[str] = []
        # A process that only forks afterwards would need its own; ours run other programs.
        self._process = os.getpid()
        self._host = socket.gethostname().partition(".")[0] or "localhost"
        self._second = 0
        self._moment = ""

    def add(self, line: str, program: str) -> None:
        now = int(time.time())
        if now != self._second:
            self._second = now
            moment = time.localtime(now)
            zone = time.strftime("%z", moment)
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", moment)
            self._moment = f"{stamp}{zone[:3]}:{zone[3:]} {self._host} postfix/"
        if not self._lines:
            self._call_soon(self.write)
        self._lines.append(f"{self._moment}{program}[{self._process}]: {line}\n")

    def write(self) -> None:
        """Write what there is."""
        lines, self._lines = self._lines, []
        self._file.write("".join(lines))
        self._file.flush()
