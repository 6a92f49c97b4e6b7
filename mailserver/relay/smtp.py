"""One outgoing SMTP session: Twisted's Protocol that drives ``wire/smtp_client``."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from OpenSSL import SSL
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectError, TCPTimedOutError, TimeoutError
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import ClientFactory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mailserver import maillog
from mailserver.relay.deadline import Deadline
from mailserver.relay.protection import OPPORTUNISTIC, Level, Protection, Security
from mailserver.relay.sending import WHOLE_OCTETS, ContentProducer
from mailserver.relay.sessions import (
    CONNECT_SECONDS,
    LIMITS,
    QUIT_SECONDS,
    TRANSACTION_SECONDS,
    Manner,
    Target,
)
from mailserver.relay.tls import ClientTLS, Handshake
from mailserver.sockets import direct_writer
from mailserver.values.attempt import Attempt, Dialogue
from mailserver.values.content import Content
from mailserver.values.envelope import Envelope, Recipient
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


def open_session(
    reactor: Any, manner: Manner, target: Target, tls: ClientTLS | None, security: Security = OPPORTUNISTIC
) -> SMTPSession:
    """Begin to connect; the session's ``opened`` gives the session once it takes transactions, or
    why it never will, and never fails.

    ``tls`` is ``None`` to stay in clear; ``security`` is what the handshake must reach.
    """
    session = SMTPSession(reactor, manner, target, tls, security)
    factory: ClientFactory = _OneSession(session)
    source = (manner.source, 0) if manner.source else None
    session.connector = reactor.connectTCP(
        target.address, target.port, factory, CONNECT_SECONDS, bindAddress=source
    )
    return session


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
        self._waiting: Deferred[TransactionDone | SessionEnded] | None = None
        self._content: Content | None = None
        self._deadline = Deadline(reactor, self._timed_out)
        self._cutoff = self.started + TRANSACTION_SECONDS
        self._handshaking = False
        self._producing = False
        self._closing = False
        self._offline = True
        self._write: Callable[[bytes], object] = _nowhere
        self._dialogue: list[tuple[float, str, Reply]] = []
        self._mail_refused = False
        self._since = self.started
        self._connected_at = self._opened_at = 0.0

    # For the agent -----------------------------------------------------------------------------

    @property
    def extensions(self) -> Extensions:
        """What the server offers."""
        return self._machine.extensions

    @property
    def busy(self) -> bool:
        """Whether somebody waits for it: to be opened, or for a transaction's end."""
        return self._waiting is not None or not self.opened.called

    @property
    def usable(self) -> bool:
        """Whether another transaction may begin here."""
        ended = self._machine.ended or self._closing or self.worn_out
        return not ended and self._waiting is None

    @property
    def worn_out(self) -> bool:
        """Whether it has had as many transactions as the server wants in one session (RFC 9422 §4.1)."""
        most = self._machine.extensions.most_transactions
        return bool(most) and self.uses >= most

    @property
    def protection(self) -> Protection | None:
        """What TLS has reached; ``None`` in clear."""
        return self._handshake.reached if self._handshake is not None else None

    @property
    def handshake(self) -> Handshake | None:
        """The TLS handshake, begun or done or found impossible; ``None``: none was asked for."""
        return self._handshake

    def send(
        self, envelope: Envelope, recipients: Sequence[Recipient], content: Content | None
    ) -> Deferred[TransactionDone | SessionEnded]:
        """One transaction, without content only its questions. Never fails; a session that has ended says so
        at once."""
        if not self.usable:
            return succeed(SessionEnded(Stage.IDLE, "the session had ended"))
        waiting: Deferred[TransactionDone | SessionEnded] = Deferred()
        self._waiting = waiting
        self._content = content
        now = self._reactor.seconds()
        self._cutoff = now + TRANSACTION_SECONDS
        if self.uses:
            # What was said when it was opened belongs to the attempt that opened it.
            self._since = self._connected_at = self._opened_at = now
            self._dialogue = []
        self._mail_refused = False
        self.uses += 1
        size = content.size if content is not None else None
        self._machine.begin(envelope, recipients, size, envelope.require_tls)
        self._flush()
        self._arm(now)
        return waiting

    def reset_first(self) -> None:
        """Say RSET before the next transaction."""
        self._machine.reset_first()

    @property
    def mail_refused(self) -> bool:
        """Whether the last transaction ended with the reply to MAIL."""
        return self._mail_refused

    def attempt(self, at: float, ended: str = "") -> Attempt:
        """The facts of the attempt so far; ``at`` is when it began, in seconds since the epoch."""
        now, since = self._reactor.seconds(), self._since
        protection = self.protection
        return Attempt(
            at=at,
            host=self.target.host,
            address=self.target.address,
            port=self.target.port,
            tls=f"{protection.version} {protection.cipher}" if protection else "",
            verified=protection.verified_by if protection else "",
            uses=self.uses,
            connected=(self._connected_at or now) - since,
            opened=(self._opened_at or now) - since,
            finished=now - since,
            steps=Dialogue(self._dialogue, since),
            ended=printable(ended),
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
        self._abandon("the server is shutting down")
        if self.connector is not None:
            self.connector.disconnect()
        if not self._offline:
            self.transport.abortConnection()

    # For Twisted -------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        self._offline = False
        self._connected_at = self._reactor.seconds()
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
        for stage, reply in machine.dialogue:
            # Enum's ``value`` is a call in Python.
            self._dialogue.append((now, stage._value_, reply))
            self._mail_refused |= stage is Stage.MAIL and reply.code >= 400
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
        self._deadline.stop()
        if self._handshaking:
            if self._handshake is not None:
                self._handshake.broken(_tls_words(reason))
            self._abandon("the TLS handshake failed")
        else:
            self._abandon(f"the connection was lost while waiting for {self._machine.stage.value}")
        self.gone.callback(None)

    def connection_failed(self, reason: Failure) -> None:
        """There is no connection; called instead of all the above."""
        self._offline = True
        self._machine.abandon("no connection")
        if not self.opened.called:
            why = _why(reason)
            self.opened.callback(SessionEnded(Stage.CONNECT, f"connect to {self.target}: {why}"))
        self.gone.callback(None)

    # Inside ------------------------------------------------------------------------------------

    def _flush(self) -> None:
        octets = self._machine.take()
        if octets and not self._offline:
            self._write(octets)

    def _act_on(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case SendContent():
                    self._send_content(event.as_it_is)
                case TransactionDone() | SessionEnded() if self._waiting is not None:
                    self._finish(event)
                case SessionEnded():
                    self._ended(event)
                case Ready():
                    self._opened_at = self._reactor.seconds()
                    self._note_clear()
                    if self._machine.secured and self._handshake is not None:
                        self._handshake.keep_session(self.transport.getHandle())
                    self.opened.callback(self)
                case StartTLS():
                    self._start_tls()

    def _finish(self, event: TransactionDone | SessionEnded) -> None:
        waiting, self._waiting, self._content = self._waiting, None, None
        if isinstance(event, SessionEnded):
            self._ended(event)
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
        content = self._content
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
        self._write(octets if as_it_is else dot_stuffed(octets))
        self._machine.content_sent()

    @property
    def content_size(self) -> int:
        """Octets of the content under way."""
        return self._content.size if self._content is not None else 0

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

    def _abandon(self, reason: str, stage: Stage | None = None) -> None:
        in_tls = self._handshaking or self._machine.stage in (Stage.STARTTLS, Stage.HANDSHAKE)
        events = self._machine.abandon(reason)
        if in_tls or stage is not None:
            # Told apart from other losses, because this one may be worth a try in clear.
            events = [replace(e, stage=Stage.HANDSHAKE) for e in events if isinstance(e, SessionEnded)]
        self._act_on(events)


class _OneSession(ClientFactory):
    noisy = False

    def __init__(self, session: SMTPSession) -> None:
        self._session = session

    def buildProtocol(self, addr: Any) -> SMTPSession:
        return self._session

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        self._session.connection_failed(reason)


def _nowhere(octets: bytes) -> None:
    """There is no connection to write to."""


def _tls_words(reason: Failure) -> str:
    """What OpenSSL, or the network, said about a handshake that broke."""
    error = reason.value
    said = getattr(error, "args", ())
    if isinstance(error, SSL.Error) and said and isinstance(said[0], list) and said[0]:
        return "; ".join(str(part[-1]) for part in said[0])
    return "the connection was lost in the TLS handshake"


def _why(reason: Failure) -> str:
    error = reason.value
    if isinstance(error, TimeoutError | TCPTimedOutError):
        return "Connection timed out"
    if isinstance(error, ConnectError) and isinstance(error.osError, int):
        return os.strerror(error.osError)
    return type(error).__name__
