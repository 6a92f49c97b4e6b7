"""One function for each event in a message's life, with fixed fields, in Postfix's words.

The words are Postfix's because people and programs (pflogsumm, fail2ban) read them already.  An
event is one line whatever strangers send, and passwords, AUTH lines and content never reach it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from twisted.logger import FileLogObserver, Logger, LogPublisher
from twisted.python.failure import Failure

from mailserver.values.address import Address
from mailserver.values.envelope import Entry
from mailserver.values.outcome import Delayed, Delivered, Expanded, Failed, Outcome, Relayed
from mailserver.values.reply import Reply
from mailserver.values.session import SessionFacts
from mailserver.values.text import printable
from mailserver.values.trace import transmission_type

log = Logger(namespace="mail")

_STATUS = {Delivered: "sent", Relayed: "sent", Expanded: "sent", Delayed: "deferred", Failed: "bounced"}


def accepted(entry: Entry, session: SessionFacts) -> None:
    """The message is ours: the commit has been made and 250 is on its way."""
    login = f", sasl_username={printable(str(session.account.address))}" if session.account else ""
    _say(
        f"{entry.queue_id}: client=[{session.client_host}], "
        f"from=<{printable(str(entry.envelope.reverse_path))}>, size={entry.content.size}, "
        f"nrcpt={len(entry.envelope.recipients)}, "
        f"proto={transmission_type(session, entry.envelope.smtputf8)}, helo=<{session.hello}>{login}"
    )


def notice_spooled(entry: Entry, about: Entry) -> None:
    """A report of our own about ``about`` is in the spool."""
    _say(f"{about.queue_id}: sender delivery status notification: {entry.queue_id}")


def refused(reply: Reply, command: str, session: SessionFacts, sender: Address, recipient: Address) -> None:
    """Policy, or a fault of ours, said no to a recipient or a message."""
    _say(
        f"NOQUEUE: reject: {command} from unknown[{session.client_host}]: {printable(reply.text)}; "
        f"from=<{printable(str(sender))}> to=<{printable(str(recipient))}> "
        f"proto={'ESMTP' if session.extended else 'SMTP'} helo=<{session.hello}>"
    )


def turned_away(protocol: str, client: str, why: str) -> None:
    """A connection was closed before anything was said: too many, no mail, an early talker."""
    _say(f"{protocol}: connection from unknown[{client}] turned away: {printable(why)}")


def pressed(is_pressed: bool, connections: int, most: int) -> None:
    """Half of the connections are in use and the limits tighten, or they loosen again."""
    state = "tightened" if is_pressed else "loosened"
    _say(f"warning: limits {state}: {connections} of {most} connections in use")


def attempted(entry: Entry, outcomes: Sequence[Outcome], now: float) -> None:
    """What became of each recipient in one attempt."""
    delay = max(0.0, now - entry.arrived)
    for outcome in outcomes:
        recipient = outcome.recipient
        original = ""
        if recipient.original != recipient.address:
            original = f", orig_to=<{printable(str(recipient.original))}>"
        _say(
            f"{entry.queue_id}: to=<{printable(str(recipient.address))}>{original}, "
            f"relay={outcome.relay}, delay={delay:.2f}, dsn={outcome.status}, "
            f"status={_STATUS[type(outcome)]} ({printable(outcome.diagnostic)})"
        )


def held(entry: Entry) -> None:
    """The message waits until somebody releases it."""
    _say(f"{entry.queue_id}: hold: {printable(entry.envelope.hold)}")


def tls_established(where: str, version: str, cipher: str, verified_by: str) -> None:
    """A session with another server is encrypted; who vouched for the server, ``""`` for nobody."""
    trust, by = ("Verified", f" by {verified_by}") if verified_by else ("Untrusted", "")
    _say(f"{trust} TLS connection established to {where}: {version} with cipher {cipher}{by}")


def removed(entry: Entry) -> None:
    """Nobody waits for the message any more."""
    _say(f"{entry.queue_id}: removed")


def login(protocol: str, client: str, user: str, tls: bool) -> None:
    """Somebody proved who they are."""
    _say(f"{protocol}: login: user=<{printable(user)}>, rip={client}{', TLS' if tls else ''}")


def login_failed(protocol: str, client: str, user: str, mechanism: str) -> None:
    """Somebody did not; ``user`` is what they called themselves."""
    _say(
        f"warning: unknown[{client}]: SASL {mechanism} authentication failed: {protocol}, "
        f"user=<{printable(user, 100)}>"
    )


def pop3_session(
    client: str, user: str, reason: str, retrieved: int, octets: int, deleted: int, left: int
) -> None:
    """A POP3 session that had logged in is over."""
    _say(
        f"pop3: {printable(reason)}: user=<{printable(user)}>, rip={client}, "
        f"retr={retrieved}/{octets}, del={deleted}/{left}"
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


def misconfigured(what: str, queue_id: str) -> None:
    """Something that an administrator has to mend keeps a message waiting."""
    log.warn("{queue_id}: {what}", queue_id=queue_id, what=printable(what))


# -- where the lines go ------------------------------------------------------------------------


def _through_the_logger(line: str) -> None:
    log.info("{line}", line=line)


def _nothing() -> None:
    pass


_say: Callable[[str], None] = _through_the_logger
_last_words: Callable[[], None] = _nothing


def write_directly(publisher: LogPublisher, call_soon: Callable[[Callable[[], None]], object]) -> bool:
    """Write lines straight into the text file that ``publisher`` writes to, if that is all it does.

    Twisted's logger takes 70 to 110 µs of processor time for an event in a text file, three times
    for each message; a line formatted here takes about 5.  The lines look the same, and all of one
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
        self._second = 0
        self._prefix = ""

    def add(self, line: str) -> None:
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S%z [mail#info] ", time.localtime(now))
        if not self._lines:
            self._call_soon(self.write)
        self._lines.append(f"{self._prefix}{line}\n")

    def write(self) -> None:
        """Write what there is."""
        lines, self._lines = self._lines, []
        self._file.write("".join(lines))
        self._file.flush()
