"""One function for each event in a message's life, with fixed fields, in Postfix's words.

The words are Postfix's because people and programs (pflogsumm, fail2ban) read them already.  An
event is one line whatever strangers send, and passwords, AUTH lines and content never reach it.
"""

from __future__ import annotations

from collections.abc import Sequence

from twisted.logger import Logger
from twisted.python.failure import Failure

from mailserver.values.address import Address
from mailserver.values.envelope import Entry
from mailserver.values.outcome import Delayed, Delivered, Failed, Outcome, Relayed
from mailserver.values.reply import Reply
from mailserver.values.session import SessionFacts
from mailserver.values.text import printable
from mailserver.values.trace import transmission_type

log = Logger(namespace="mail")

_STATUS = {Delivered: "sent", Relayed: "sent", Delayed: "deferred", Failed: "bounced"}


def accepted(entry: Entry, session: SessionFacts) -> None:
    """The message is ours: the commit has been made and 250 is on its way."""
    log.info(
        "{queue_id}: client=[{client}], from=<{sender}>, size={size}, nrcpt={nrcpt}, proto={proto}, "
        "helo=<{hello}>{login}",
        queue_id=entry.queue_id,
        client=session.client_host,
        sender=printable(str(entry.envelope.reverse_path)),
        size=entry.content.size,
        nrcpt=len(entry.envelope.recipients),
        proto=transmission_type(session, entry.envelope.smtputf8),
        hello=session.hello,
        login=f", sasl_username={printable(str(session.account.address))}" if session.account else "",
    )


def notice_spooled(entry: Entry, about: Entry) -> None:
    """A report of our own about ``about`` is in the spool."""
    log.info(
        "{about}: sender delivery status notification: {queue_id}",
        about=about.queue_id,
        queue_id=entry.queue_id,
    )


def refused(reply: Reply, command: str, session: SessionFacts, sender: Address, recipient: Address) -> None:
    """Policy, or a fault of ours, said no to a recipient or a message."""
    log.info(
        "NOQUEUE: reject: {command} from [{client}]: {reply}; from=<{sender}> to=<{recipient}> "
        "proto={proto} helo=<{hello}>",
        command=command,
        client=session.client_host,
        reply=printable(reply.text),
        sender=printable(str(sender)),
        recipient=printable(str(recipient)),
        proto="ESMTP" if session.extended else "SMTP",
        hello=session.hello,
    )


def attempted(entry: Entry, outcomes: Sequence[Outcome], now: float) -> None:
    """What became of each recipient in one attempt."""
    for outcome in outcomes:
        recipient = outcome.recipient
        asked = printable(str(recipient.original)) if recipient.original != recipient.address else ""
        log.info(
            "{queue_id}: to=<{to}>{original}, relay={relay}, delay={delay:.2f}, dsn={status}, "
            "status={word} ({diagnostic})",
            queue_id=entry.queue_id,
            to=printable(str(recipient.address)),
            original=f", orig_to=<{asked}>" if asked else "",
            relay=outcome.relay,
            delay=max(0.0, now - entry.arrived),
            status=outcome.status,
            word=_STATUS[type(outcome)],
            diagnostic=printable(outcome.diagnostic),
        )


def removed(entry: Entry) -> None:
    """Nobody waits for the message any more."""
    log.info("{queue_id}: removed", queue_id=entry.queue_id)


def login(protocol: str, client: str, user: str, tls: bool) -> None:
    """Somebody proved who they are."""
    log.info(
        "{protocol}: login: user=<{user}>, rip={client}{tls}",
        protocol=protocol,
        client=client,
        user=printable(user),
        tls=", TLS" if tls else "",
    )


def login_failed(protocol: str, client: str, user: str, mechanism: str) -> None:
    """Somebody did not; ``user`` is what they called themselves."""
    log.warn(
        "warning: unknown[{client}]: SASL {mechanism} authentication failed: {protocol}, user=<{user}>",
        protocol=protocol,
        client=client,
        user=printable(user, 100),
        mechanism=mechanism,
    )


def pop3_session(
    client: str, user: str, reason: str, retrieved: int, octets: int, deleted: int, left: int
) -> None:
    """A POP3 session that had logged in is over."""
    log.info(
        "pop3: {reason}: user=<{user}>, rip={client}, retr={retrieved}/{octets}, del={deleted}/{left}",
        client=client,
        user=printable(user),
        reason=printable(reason),
        retrieved=retrieved,
        octets=octets,
        deleted=deleted,
        left=left,
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
