"""One outgoing SMTP session: Twisted's Protocol that drives ``wire/smtp_client``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectError, TCPTimedOutError, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IHandshakeListener, IPullProducer
from twisted.internet.protocol import ClientFactory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mailserver.relay.tls import OpportunisticTLS
from mailserver.values.content import Content
from mailserver.values.envelope import Envelope, Recipient
from mailserver.wire.client_commands import Extensions
from mailserver.wire.dots import DotStuffer, dot_stuffed
from mailserver.wire.smtp_client import (
    Event,
    Ready,
    SendContent,
    SessionEnded,
    SMTPClientMachine,
    Stage,
    StartTLS,
    TransactionDone,
)

# RFC 5321 §4.5.3.2, in seconds; those that it does not name are ours.
CONNECT_SECONDS = 30.0
GREETING_SECONDS = 300.0
EHLO_SECONDS = 300.0
STARTTLS_SECONDS = 120.0
HANDSHAKE_SECONDS = 60.0
MAIL_SECONDS = 300.0
RCPT_SECONDS = 300.0
DATA_SECONDS = 120.0
BLOCK_SECONDS = 180.0
END_SECONDS = 600.0
QUIT_SECONDS = 5.0
TRANSACTION_SECONDS = 3600.0
"""One transaction may not stretch the limits above, recipient after recipient, beyond this."""

LIMITS = {
    Stage.GREETING: GREETING_SECONDS,
    Stage.EHLO: EHLO_SECONDS,
    Stage.HELO: EHLO_SECONDS,
    Stage.STARTTLS: STARTTLS_SECONDS,
    Stage.HANDSHAKE: HANDSHAKE_SECONDS,
    Stage.RSET: MAIL_SECONDS,
    Stage.MAIL: MAIL_SECONDS,
    Stage.RCPT: RCPT_SECONDS,
    Stage.DATA: DATA_SECONDS,
    Stage.CONTENT: BLOCK_SECONDS,
    Stage.END: END_SECONDS,
    Stage.QUIT: QUIT_SECONDS,
}

WHOLE_OCTETS = 256 * 1024
"""Content up to this size leaves in one write; larger content as fast as the other side reads."""


@dataclass(frozen=True, slots=True)
class Target:
    """One address of one mail exchange."""

    host: str
    address: str
    port: int

    def __str__(self) -> str:
        """As the log shows it: ``mx.b.test[192.0.2.1]:25``."""
        name = "" if self.host.startswith("[") else self.host
        return f"{name}[{self.address}]:{self.port}"


def open_session(reactor: Any, hostname: str, target: Target, tls: OpportunisticTLS | None) -> SMTPSession:
    """Begin to connect; the session's ``opened`` gives the session once it takes transactions, or
    why it never will, and never fails.

    ``hostname`` is what EHLO says; ``tls`` is ``None`` to stay in clear.
    """
    session = SMTPSession(reactor, hostname, target, tls)
    factory = _OneSession(session)
    session.connector = reactor.connectTCP(target.address, target.port, factory, CONNECT_SECONDS)
    return session


@implementer(IHandshakeListener)
class SMTPSession(Protocol):
    """A connection to one target; transactions one after the other."""

    transport: Any

    def __init__(self, reactor: Any, hostname: str, target: Target, tls: OpportunisticTLS | None) -> None:
        self.target = target
        self.opened: Deferred[SMTPSession | SessionEnded] = Deferred()
        self.gone: Deferred[None] = Deferred()
        """Fires when the connection is closed, or could not be made."""
        self.started = reactor.seconds()
        self.connector: Any = None
        self._reactor = reactor
        self._tls = tls
        self._machine = SMTPClientMachine(hostname, tls is not None)
        self._waiting: Deferred[TransactionDone | SessionEnded] | None = None
        self._content: Content | None = None
        self._timer: IDelayedCall | None = None
        self._cutoff = self.started + TRANSACTION_SECONDS
        self._handshaking = False
        self._producing = False
        self._closing = False
        self._offline = True

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
        return not (self._machine.ended or self._closing) and self._waiting is None

    def send(
        self, envelope: Envelope, recipients: Sequence[Recipient], content: Content
    ) -> Deferred[TransactionDone | SessionEnded]:
        """One transaction. Never fails; a session that has ended says so at once."""
        if not self.usable:
            return succeed(SessionEnded(Stage.IDLE, "the session had ended"))
        waiting: Deferred[TransactionDone | SessionEnded] = Deferred()
        self._waiting = waiting
        self._content = content
        self._cutoff = self._reactor.seconds() + TRANSACTION_SECONDS
        self._machine.begin(envelope, recipients, content.size)
        self._flush()
        self._arm()
        return waiting

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
        self.transport.setTcpNoDelay(True)
        self._arm()

    def dataReceived(self, data: bytes) -> None:
        machine = self._machine
        before = machine.replies_read
        events = machine.feed(data)
        self._flush()
        if events:
            self._act_on(events)
        if machine.replies_read != before:
            self._arm()

    def handshakeCompleted(self) -> None:
        self._handshaking = False
        self._arm()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._offline = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if self._handshaking:
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
            self.transport.write(octets)

    def _act_on(self, events: list[Event]) -> None:
        for event in events:
            match event:
                case SendContent():
                    self._send_content()
                case TransactionDone() | SessionEnded() if self._waiting is not None:
                    self._finish(event)
                case SessionEnded():
                    self._ended(event)
                case Ready():
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
            self.opened.callback(event)

    def _hang_up(self) -> None:
        if self._handshaking:
            self.transport.abortConnection()
        else:
            self.transport.loseConnection()

    def _start_tls(self) -> None:
        assert self._tls is not None
        self._handshaking = True
        self.transport.startTLS(self._tls.to(self.target.host))
        self._machine.tls_started()
        self._flush()

    # Content -----------------------------------------------------------------------------------

    def _send_content(self) -> None:
        content = self._content
        assert content is not None
        try:
            if content.size > WHOLE_OCTETS:
                self._producing = True
                self.transport.registerProducer(_ContentProducer(self, content.chunks()), False)
                return
            octets = dot_stuffed(b"".join(content.chunks()))
        except OSError as error:
            self.content_unreadable(error)
            return
        self.transport.write(octets)
        self._machine.content_sent()

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

    def _arm(self) -> None:
        """Give the stage we are in its time from now."""
        if self._offline:
            return
        stage = Stage.HANDSHAKE if self._handshaking else self._machine.stage
        seconds = QUIT_SECONDS if self._closing else LIMITS.get(stage)
        if seconds is None:
            # Idle: whoever parked us sees to the end. The timer may run out, it will do nothing.
            return
        if not self._closing:
            seconds = max(0.0, min(seconds, self._cutoff - self._reactor.seconds()))
        if self._timer is not None and self._timer.active():
            self._timer.reset(seconds)
        else:
            self._timer = self._reactor.callLater(seconds, self._timed_out)

    def _timed_out(self) -> None:
        self._timer = None
        stage = self._machine.stage
        if stage is Stage.IDLE and not self._closing:
            return
        self._abandon(f"no answer in time while waiting for {stage.value}")
        self.transport.abortConnection()

    def _abandon(self, reason: str) -> None:
        in_tls = self._handshaking or self._machine.stage in (Stage.STARTTLS, Stage.HANDSHAKE)
        events = self._machine.abandon(reason)
        if in_tls:
            # Told apart from other losses, because this one is worth a try in clear.
            events = [replace(e, stage=Stage.HANDSHAKE) for e in events if isinstance(e, SessionEnded)]
        self._act_on(events)


@implementer(IPullProducer)
class _ContentProducer:
    """Reads the next piece of content when the connection has sent the last."""

    def __init__(self, session: SMTPSession, chunks: Iterator[bytes]) -> None:
        self._session = session
        self._chunks = chunks
        self._stuffer = DotStuffer()

    def resumeProducing(self) -> None:
        """Send one piece, or the end of data."""
        try:
            for chunk in self._chunks:
                # A piece may stuff to nothing; only a write brings the next call.
                if octets := self._stuffer.feed(chunk):
                    self._session.content_block(octets)
                    return
        except OSError as error:
            self._session.content_unreadable(error)
            return
        self._session.content_finished(self._stuffer.finish())

    def stopProducing(self) -> None:
        """The connection is gone; the file behind the content is closed with the generator."""
        self._chunks = iter(())


class _OneSession(ClientFactory):
    noisy = False

    def __init__(self, session: SMTPSession) -> None:
        self._session = session

    def buildProtocol(self, addr: Any) -> SMTPSession:
        return self._session

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        self._session.connection_failed(reason)


def _why(reason: Failure) -> str:
    error = reason.value
    if isinstance(error, TimeoutError | TCPTimedOutError):
        return "Connection timed out"
    if isinstance(error, ConnectError) and isinstance(error.osError, int):
        return os.strerror(error.osError)
    return type(error).__name__
