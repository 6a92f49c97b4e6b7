"""One outgoing SMTP session: Twisted's Protocol that drives ``wire/smtp_client``."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mailserver import maillog
from mailserver.relay.deadline import Deadline
from mailserver.relay.protection import Level, Protection, Security
from mailserver.relay.sending import WHOLE_OCTETS, ContentProducer
from mailserver.relay.sessions import (
    LIMITS,
    QUIT_SECONDS,
    TRANSACTION_SECONDS,
    Manner,
    Target,
)
from mailserver.relay.tls import ClientTLS, Handshake
from mailserver.relay.troubles import connection_words, tls_words
from mailserver.sockets import direct_writer
from mailserver.values.attempt import Attempt, Dialogue
from mailserver.values.content import Content
from mailserver.values.envelope import Envelope, Recipient
from mailserver.values.outcome import SERVER_STOPS, STOPPING
from mailserver.values.reply import Reply
from mailserver.values.text import printable
from mailserver.wire.client_commands import Extensions
from mailserver.wire.client_events import (
    Event,
    Ready,
    SendContent,
    SessionEnded,
    Stage,
    StartTLS,
    TransactionDone,
)
from mailserver.wire.dots import DotStuffer, dot_stuffed
from mailserver.wire.smtp_client import SMTPClientMachine

SOON_SECONDS = 0.03
"""A server that takes longer to answer the end of data gets nothing behind it: what comes next might wait
there while other sessions are free."""


class _Transaction:
    """One transaction under way, and what is told of it afterwards; the first is also told how the session
    was opened, for what was said then belongs to the attempt that opened it."""

    __slots__ = (
        "connected",
        "content",
        "dialogue",
        "followable",
        "mail_refused",
        "opened",
        "since",
        "uses",
        "waiting",
    )

    def __init__(self, since: float, uses: int) -> None:
        self.since = since
        self.uses = uses
        self.connected = self.opened = since if uses else 0.0
        self.waiting: Deferred[TransactionDone | SessionEnded] | None = None
        self.content: Content | None = None
        self.followable: Callable[[], object] | None = None
        self.dialogue: list[tuple[float, str, Reply]] = []
        self.mail_refused = False


@implementer(IHandshakeListener)
class SMTPSession(Protocol):
    """A connection to one target; transactions one after the other."""

    transport: Any

    def __init__(
        self, reactor: Any, manner: Manner, target: Target, tls: ClientTLS | None, security: Security
    ) -> None:
        self.target = target
        self.security = security
        self.opened: Deferred[SMTPSession | SessionEnded] = Deferred()
        self.gone: Deferred[None] = Deferred()
        """Fires when the connection is closed, or could not be made."""
        self.when_connected: Callable[[SMTPSession], object] | None = None
        """Called once when there is a connection, before anything is read."""
        self.started = reactor.seconds()
        self.uses = 0
        """Transactions begun here."""
        self.connector: Any = None
        self._reactor = reactor
        self._tls = tls
        self._handshake: Handshake | None = None
        # An implicit handshake begins the connection; there is no STARTTLS then.
        wants_starttls = tls is not None and not security.implicit
        required = security.level >= Level.ENCRYPTED
        self._machine = SMTPClientMachine(
            manner.hostname, wants_starttls, manner.login, wants_starttls and required
        )
        self._open = self._told = _Transaction(self.started, 0)
        """The one that is under way, or was last; and the one whose end was told last."""
        self._behind: _Transaction | None = None
        """Its commands are behind the content of the open one, which is not answered yet."""
        self._content_left_at = 0.0
        self._answers_soon = False
        self._deadline = Deadline(reactor, self._timed_out)
        self._cutoff = self.started + TRANSACTION_SECONDS
        self._handshaking = False
        self._producing = False
        self._closing = False
        self._offline = True
        self._write: Callable[[bytes], object] = _nowhere

    # For the agent -----------------------------------------------------------------------------

    @property
    def extensions(self) -> Extensions:
        """What the server offers."""
        return self._machine.extensions

    @property
    def busy(self) -> bool:
        """Whether somebody waits for it: to be opened, or for a transaction's end."""
        return self._open.waiting is not None or not self.opened.called

    @property
    def usable(self) -> bool:
        """Whether another transaction may begin here."""
        ended = self._machine.ended or self._closing or self.worn_out
        return not ended and self._open.waiting is None

    @property
    def worn_out(self) -> bool:
        """Whether it has had as many transactions as the server wants in one session (RFC 9422 §4.1)."""
        most = self._machine.extensions.most_transactions
        return bool(most) and self.uses >= most

    @property
    def takes_along(self) -> bool:
        """Whether another transaction may go with the content of the one that is open, or comes next."""
        return self._answers_soon and self._machine.extensions.pipelining and not self.worn_out

    @property
    def protection(self) -> Protection | None:
        """What TLS has reached; ``None`` in clear."""
        return self._handshake.reached if self._handshake is not None else None

    @property
    def handshake(self) -> Handshake | None:
        """The TLS handshake, begun or done or found impossible; ``None``: none was asked for."""
        return self._handshake

    def send(
        self,
        envelope: Envelope,
        recipients: Sequence[Recipient],
        content: Content | None,
        followable: Callable[[], object] | None = None,
    ) -> Deferred[TransactionDone | SessionEnded]:
        """One transaction, without content only its questions. Never fails; a session that has ended says so
        at once.  ``followable`` is called when the content is about to leave for a server that answered the
        one before soon: whoever has another transaction for it may ``follow`` now."""
        if not self.usable:
            return succeed(SessionEnded(Stage.IDLE, "the session had ended"))
        now = self._reactor.seconds()
        self._cutoff = now + TRANSACTION_SECONDS
        if self.uses:
            self._open = self._told = _Transaction(now, self.uses + 1)
        waiting = self._begin(self._open, content, followable)
        size = content.size if content is not None else None
        self._machine.begin(envelope, recipients, size, envelope.require_tls)
        self._flush()
        self._arm(now)
        return waiting

    def follow(
        self,
        envelope: Envelope,
        recipients: Sequence[Recipient],
        content: Content,
        followable: Callable[[], object] | None = None,
    ) -> Deferred[TransactionDone | SessionEnded]:
        """``send`` while ``followable`` is called: MAIL, RCPT and DATA leave in one write with the
        content before them (RFC 2920 §3.1).  A session that ends before that content is answered tells it,
        with the stage ``IDLE``, that nothing has begun; it is told first."""
        self._machine.begin_behind(envelope, recipients, content.size, envelope.require_tls)
        behind = self._behind = _Transaction(self._reactor.seconds(), self.uses + 1)
        return self._begin(behind, content, followable)

    def _begin(
        self, transaction: _Transaction, content: Content | None, followable: Callable[[], object] | None
    ) -> Deferred[TransactionDone | SessionEnded]:
        self.uses += 1
        waiting: Deferred[TransactionDone | SessionEnded] = Deferred()
        transaction.uses, transaction.waiting, transaction.content = self.uses, waiting, content
        transaction.followable = followable
        return waiting

    def reset_first(self) -> None:
        """Say RSET before the next transaction."""
        self._machine.reset_first()

    @property
    def mail_refused(self) -> bool:
        """Whether the transaction that was told last ended with the reply to MAIL."""
        return self._told.mail_refused

    def attempt(self, at: float, ended: str = "") -> Attempt:
        """The facts of the attempt whose end was told last, or of the opening; ``at`` is when it began, in
        seconds since the epoch."""
        told, now = self._told, self._reactor.seconds()
        since = told.since
        protection = self.protection
        return Attempt(
            at=at,
            host=self.target.host,
            address=self.target.address,
            port=self.target.port,
            tls=f"{protection.version} {protection.cipher}" if protection else "",
            verified=protection.verified_by if protection else "",
            uses=told.uses,
            connected=(told.connected or now) - since,
            opened=(told.opened or now) - since,
            finished=now - since,
            steps=Dialogue(told.dialogue, since),
            ended=printable(ended) if ended else "",
        )

    def close(self) -> None:
        """Say QUIT and leave; harmless at any time. An unfinished transaction is not waited for."""
        if self._closing or self._offline:
            return
        self._closing = True
        self._machine.quit()
        self._flush()
        if self._machine.ended:
            self._hang_up()
        self._arm()

    def abort(self) -> None:
        """Cut the connection now; whoever waits is told."""
        self._abandon(SERVER_STOPS, status=STOPPING)
        if self.connector is not None:
            self.connector.disconnect()
        if not self._offline:
            self.transport.abortConnection()

    # For Twisted -------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        self._offline = False
        self._open.connected = self._reactor.seconds()
        self.transport.setTcpNoDelay(True)
        self._write = direct_writer(self.transport)
        if self.when_connected is not None:
            self.when_connected(self)
        if self.security.implicit and self._tls is not None:
            self._machine.secured = True
            self._begin_handshake(self._tls)
        self._arm()

    def dataReceived(self, data: bytes) -> None:
        machine = self._machine
        before = machine.replies_read
        events = machine.feed(data)
        now = self._reactor.seconds()
        answered = self._open
        for stage, reply in machine.dialogue:
            # Enum's ``value`` is a call in Python.
            answered.dialogue.append((now, stage._value_, reply))
            if stage is Stage.END:
                self._answers_soon = now - self._content_left_at < SOON_SECONDS
                answered = self._behind or answered  # what else has come belongs to the next
            elif stage is Stage.MAIL and reply.code >= 400:
                answered.mail_refused = True
        machine.dialogue.clear()
        self._flush()
        if events:
            self._act_on(events)
        if machine.replies_read != before:
            self._arm(now)

    def handshakeCompleted(self) -> None:
        self._handshaking = False
        assert self._handshake is not None
        good = self._handshake.completed(self.transport.getHandle())
        if reached := self._handshake.reached:
            maillog.tls_established(str(self.target), reached.version, reached.cipher, reached.verified_by)
        if good:
            self._arm()
            return
        # Not whom we must meet: no command follows, and the session's end says why.
        mismatch = self._handshake.mismatch
        self._abandon(mismatch.reason if mismatch else "the TLS handshake failed", Stage.HANDSHAKE)
        self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._offline = True
        self._let_go()
        if self._handshaking:
            if self._handshake is not None:
                self._handshake.broken(tls_words(reason))
            self._abandon("the TLS handshake failed")
        else:
            self._abandon(f"the connection was lost while waiting for {self._machine.stage.value}")
        self.gone.callback(None)

    def connection_failed(self, reason: Failure) -> None:
        """There is no connection; called instead of all the above."""
        self._offline = True
        self._let_go()
        self._machine.abandon("no connection")
        if not self.opened.called:
            why = connection_words(reason)
            self.opened.callback(SessionEnded(Stage.CONNECT, f"connect to {self.target}: {why}"))
        self.gone.callback(None)

    # Inside ------------------------------------------------------------------------------------

    def _let_go(self) -> None:
        """Nothing leads from here back to here: memory is free at once."""
        self._deadline.end()
        self.connector = None

    def _flush(self) -> None:
        octets = self._machine.take()
        if octets and not self._offline:
            self._write(octets)

    def _act_on(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case SendContent():
                    self._send_content(event.as_it_is)
                case TransactionDone() | SessionEnded() if self._open.waiting is not None:
                    self._finish(event)
                case SessionEnded():
                    self._ended(event)
                case Ready():
                    self._open.opened = self._reactor.seconds()
                    self._note_clear()
                    if self._machine.secured and self._handshake is not None:
                        self._handshake.keep_session(self.transport.getHandle())
                    self.opened.callback(self)
                case StartTLS():
                    self._start_tls()

    def _finish(self, event: TransactionDone | SessionEnded) -> None:
        told = self._told = self._open
        waiting = told.waiting
        told.waiting = told.content = told.followable = None
        behind, self._behind = self._behind, None
        if isinstance(event, SessionEnded):
            self._ended(event)
            if behind is not None and behind.waiting is not None:
                behind.waiting.callback(SessionEnded(Stage.IDLE, "the session had ended"))
        elif behind is not None:
            self._open = behind
            self._cutoff = self._reactor.seconds() + TRANSACTION_SECONDS
        assert waiting is not None
        waiting.callback(event)

    def _ended(self, event: SessionEnded) -> None:
        if self._producing and not self._offline:
            # Content is half sent: nothing but a cut may follow, lest the rest be taken for commands.
            self.transport.abortConnection()
        elif not self._closing:
            self.close()
        elif not self._offline:
            self._hang_up()
        if not self.opened.called:
            if event.stage is Stage.STARTTLS:
                self._note_clear()
            self.opened.callback(event)

    def _hang_up(self) -> None:
        if self._handshaking:
            self.transport.abortConnection()
        else:
            self.transport.loseConnection()

    def _start_tls(self) -> None:
        assert self._tls is not None
        if self._begin_handshake(self._tls):
            self._machine.tls_started()
            self._flush()

    def _note_clear(self) -> None:
        """TLS was wanted, and there is none: the server does not offer it, or not now."""
        if self._tls is None or self._handshake is not None:
            return
        try:
            self._handshake = self._tls.handshake(self.target.host, self.security)
        except (OSError, SSL.Error):
            return
        self._handshake.not_offered("the server does not offer STARTTLS")

    def _begin_handshake(self, tls: ClientTLS) -> bool:
        try:
            self._handshake = tls.handshake(self.target.host, self.security, self.target)
        except (OSError, SSL.Error) as error:
            # A fault of our own files: the message waits, the log of the attempt says why.
            self._abandon(f"TLS cannot be used here: {error}")
            self.transport.abortConnection()
            return False
        self._handshaking = True
        self.transport.startTLS(self._handshake)
        self._write = self.transport.write
        return True

    # Content -----------------------------------------------------------------------------------

    def _send_content(self, as_it_is: bool) -> None:
        content, followable = self._open.content, self._open.followable
        assert content is not None
        try:
            if content.size > WHOLE_OCTETS:
                self._producing = True
                stuffer = None if as_it_is else DotStuffer()
                producer = ContentProducer(self, content.chunks(), stuffer)
                self.transport.registerProducer(producer, False)
                return
            octets = b"".join(content.chunks())
        except OSError as error:
            self.content_unreadable(error)
            return
        if as_it_is and len(octets) != content.size:
            # BDAT has told how many there are; the rest of a shorter content would be our next commands.
            self.content_unreadable(OSError(errno.EIO, "it is not as long as it was"))
            return
        if not as_it_is:
            octets = dot_stuffed(octets)
        self._machine.content_sent()
        if followable is not None and self.takes_along and self._machine.takes_another:
            followable()
            octets += self._machine.take()
        self._content_left_at = self._reactor.seconds()
        self._write(octets)

    @property
    def content_size(self) -> int:
        """Octets of the content under way."""
        return self._open.content.size if self._open.content is not None else 0

    def content_block(self, octets: bytes) -> None:
        """A piece of large content; its time runs from now."""
        self.transport.write(octets)
        self._arm()

    def content_finished(self, octets: bytes) -> None:
        """The last piece of large content, with the final dot."""
        self._producing = False
        self.transport.unregisterProducer()
        self.transport.write(octets)
        self._machine.content_sent()
        self._content_left_at = self._reactor.seconds()
        self._arm()

    def content_unreadable(self, error: OSError) -> None:
        """A fault of our own disk: the final dot is never sent, so nobody keeps half a message."""
        self._producing = True
        self._abandon(f"our own copy of the message cannot be read: {error.strerror or error}")

    # Time --------------------------------------------------------------------------------------

    def _arm(self, now: float | None = None) -> None:
        """Give the stage we are in its time from now."""
        if self._offline:
            return
        now = self._reactor.seconds() if now is None else now
        if self._closing:
            self._deadline.move(now + QUIT_SECONDS)
            return
        seconds = LIMITS.get(Stage.HANDSHAKE if self._handshaking else self._machine.stage)
        if seconds is None:
            # Idle: whoever parked us sees to the end.
            self._deadline.lift()
        else:
            self._deadline.move(min(now + seconds, self._cutoff))

    def _timed_out(self) -> None:
        stage = self._machine.stage
        self._abandon(f"no answer in time while waiting for {stage.value}")
        self.transport.abortConnection()

    def _abandon(self, reason: str, stage: Stage | None = None, status: str = "") -> None:
        in_tls = self._handshaking or self._machine.stage in (Stage.STARTTLS, Stage.HANDSHAKE)
        events = self._machine.abandon(reason)
        if in_tls or stage is not None:
            # Told apart from other losses, because this one may be worth a try in clear.
            events = [replace(e, stage=Stage.HANDSHAKE) for e in events if isinstance(e, SessionEnded)]
        if status:
            events = [replace(e, status=status) if isinstance(e, SessionEnded) else e for e in events]
        self._act_on(events)


def _nowhere(octets: bytes) -> None:
    """There is no connection to write to."""
