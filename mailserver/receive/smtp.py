"""SMTP from a transport: bytes to ``wire/smtp_server.py``, one event at a time, replies back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHandshakeListener,
    IOpenSSLContextFactory,
    IPushProducer,
    IReactorTime,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mailserver import maillog
from mailserver.receive.authentication import CANCELLED, Authenticator, Exchange
from mailserver.receive.transaction import TRY_LATER, Intake, Transaction
from mailserver.sockets import direct_writer
from mailserver.values.reply import Reply, reply
from mailserver.values.session import SessionFacts, TLSFacts
from mailserver.values.text import printable
from mailserver.wire.sasl import Challenge
from mailserver.wire.smtp_events import (
    AuthBegin,
    AuthResponse,
    ContentChunk,
    ContentEnd,
    DataBegin,
    Event,
    Expand,
    Hello,
    MailFrom,
    Offer,
    Quit,
    RcptTo,
    Refused,
    Reset,
    StartTLS,
    Verify,
)
from mailserver.wire.smtp_server import SmtpServer

IDLE_SECONDS = 300.0
"""How long a silent client is waited for (RFC 5321 §4.5.3.2.7: at least five minutes)."""

HANDSHAKE_SECONDS = 30.0
"""How long a TLS handshake may take."""

CLOSING_SECONDS = 10.0
"""How long a stopping server lets sessions finish their message."""

MOST_ERRORS = 15
"""Refused commands in a session before it is ended with 421."""

MOST_PENDING = 128 * 1024
"""Octets that wait behind an unanswered command before we stop reading."""

_BYE = reply(221, "2.0.0", "Bye")
_RESET = reply(250, "2.0.0", "Ok")
_READY_FOR_TLS = reply(220, "2.0.0", "Ready to start TLS")
_CANNOT_VERIFY = reply(252, "2.1.5", "Cannot verify the user, but will take mail for it and try to deliver")
_NO_EXPANSION = reply(502, "5.7.0", "Lists are not expanded here")
_TOO_MANY_ERRORS = reply(421, "4.7.0", "Too many errors; closing the connection", hang_up=True)
_IDLE = reply(421, "4.4.2", "Idle for too long; closing the connection", hang_up=True)
_STOPPING = reply(421, "4.3.2", "The server is stopping; please try again later", hang_up=True)

Answer = Reply | Challenge | Deferred[Any] | None


@implementer(IPushProducer, IHandshakeListener)
class SMTPReceiver(Protocol):
    """One SMTP session.

    An event is answered before the next is looked at, so replies leave in order.  While an answer
    is awaited, while the disk lags, or while the client does not read what we wrote, its further
    octets stay in the kernel.
    """

    factory: SMTPReceiverFactory
    transport: Any

    def __init__(self, factory: SMTPReceiverFactory, session: SessionFacts) -> None:
        self.factory = factory
        self._session = session
        self._machine = SmtpServer(factory.settings.offer)
        self._transaction: Transaction | None = None
        self._exchange: Exchange | None = None
        self._awaiting = False
        self._output_full = False
        self._paused = False
        self._pending = 0
        self._errors = 0
        self._lost = False
        self._timer: IDelayedCall | None = None
        self._write: Callable[[bytes], object]

    # -- the transport calls ---------------------------------------------------------------

    def connectionMade(self) -> None:
        self.factory.sessions.add(self)
        self._write = direct_writer(self.transport)
        self.transport.registerProducer(self, True)
        seconds = HANDSHAKE_SECONDS if self.factory.settings.implicit_tls else IDLE_SECONDS
        self._timer = self.factory.settings.clock.callLater(seconds, self._timed_out)
        if not self.factory.settings.implicit_tls:
            self._machine.greet()
            self._flush()

    def handshakeCompleted(self) -> None:
        """TLS stands: everything said before it is forgotten (RFC 3207 §4.2)."""
        if self._machine.plaintext_pending:
            self._refuse_injection()
            return
        connection = self.transport.getHandle()
        self._session.tls = TLSFacts(
            connection.get_protocol_version_name(), connection.get_cipher_name() or "unknown"
        )
        self._session.hello, self._session.extended, self._session.account = "", False, None
        self._machine.tls_started()
        if self.factory.settings.implicit_tls:
            self._machine.greet()
            self._flush()

    def dataReceived(self, data: bytes) -> None:
        if self._timer is not None:
            self._timer.reset(IDLE_SECONDS)
        self._machine.feed(data)
        if self._awaiting or self._output_full:
            self._pending += len(data)
            self._set_reading()
            return
        self._run()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = True
        self.factory.ended(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._drop_transaction()

    def pauseProducing(self) -> None:
        """The client does not read: hear no more of it until it does."""
        self._output_full = True
        self._set_reading()

    def resumeProducing(self) -> None:
        self._output_full = False
        if not self._awaiting:
            self._run()

    def stopProducing(self) -> None:
        self._output_full = True

    # -- one event after another -----------------------------------------------------------

    def _run(self) -> None:
        self._pending = 0
        machine = self._machine
        while not self._awaiting and not self._output_full:
            event = machine.next_event()
            if event is None:
                break
            self._take(_EVENTS[type(event)](self, event))
        self._flush()
        self._set_reading()
        if self.factory.stopping:
            self.stop()

    def _take(self, answer: Answer) -> None:
        if answer is None:
            return
        if isinstance(answer, Deferred):
            self._await(answer)
        elif isinstance(answer, Challenge):
            self._machine.challenge(answer.octets)
        else:
            self._machine.answer(answer)
            if answer.hang_up:
                self._hang_up()

    def _await(self, later: Deferred[Any]) -> None:
        self._awaiting = True
        finished = False

        def arrived(answer: Any) -> None:
            nonlocal finished
            finished, self._awaiting = True, False
            if not self._lost:
                self._take(answer)

        later.addErrback(self._fault)
        later.addCallback(arrived)
        if not finished:
            later.addCallback(lambda _: None if self._lost else self._run())

    def _fault(self, failure: Failure) -> Reply:
        maillog.fault("answering a command", failure.value)
        return TRY_LATER

    def _flush(self) -> None:
        if output := self._machine.take_output():
            self._write(output)

    def _set_reading(self) -> None:
        pause = self._output_full or (self._awaiting and self._pending > MOST_PENDING)
        if pause != self._paused and not self._lost:
            self._paused = pause
            if pause:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    def _hang_up(self) -> None:
        self._flush()
        self._drop_transaction()
        self._awaiting = True
        self._lost = True
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.factory.settings.clock.callLater(CLOSING_SECONDS, self._timed_out)
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def _timed_out(self) -> None:
        self._timer = None
        if self._lost or self._output_full or self._handshaking:
            self.transport.abortConnection()
            return
        self._say_goodbye(_IDLE)

    @property
    def _handshaking(self) -> bool:
        return self.factory.settings.implicit_tls and self._session.tls is None

    def _say_goodbye(self, goodbye: Reply) -> None:
        self._write(self._machine.take_output() + goodbye.encode())
        self._hang_up()

    def stop(self) -> None:
        """The server is stopping: a session between messages ends, one in DATA may finish."""
        if not self._lost and not self._awaiting and not self._machine.is_reading_content:
            self._say_goodbye(_STOPPING)

    def abort(self) -> None:
        """End the connection at once, whatever is under way."""
        self.transport.abortConnection()

    def _drop_transaction(self) -> None:
        if self._transaction is not None:
            self._transaction.abort()
            self._transaction = None

    # -- what each event asks for ----------------------------------------------------------

    def _hello(self, event: Hello) -> Answer:
        self._drop_transaction()
        self._session.hello, self._session.extended = event.name, event.extended
        return reply(250, "", f"{self.factory.settings.intake.hostname} at your service")

    def _mail(self, event: MailFrom) -> Answer:
        self._drop_transaction()
        self._transaction = Transaction(self.factory.settings.intake, self._session, event)
        return reply(250, "2.1.0", f"Sender <{printable(str(event.path))}> ok")

    def _rcpt(self, event: RcptTo) -> Answer:
        assert self._transaction is not None
        return self._transaction.recipient(event)

    def _data(self, event: DataBegin) -> Answer:
        assert self._transaction is not None
        return self._transaction.begin_content()

    def _chunk(self, event: ContentChunk) -> Answer:
        assert self._transaction is not None
        lagging = self._transaction.write(event.octets)
        if lagging is not None:
            self._wait_for_disk(lagging)
        return None

    def _wait_for_disk(self, lagging: Future[None]) -> None:
        def go_on(_: object) -> None:
            self._awaiting = False
            if not self._lost:
                self._run()

        # A failure to write is told by commit; here only the waiting counts.
        self._awaiting = True
        self.factory.settings.intake.bridge.deferred(lagging).addBoth(go_on)

    def _content_end(self, event: ContentEnd) -> Answer:
        assert self._transaction is not None
        transaction, self._transaction = self._transaction, None
        return transaction.finish(event.fault)

    def _start_tls(self, event: StartTLS) -> Answer:
        self._drop_transaction()
        tls = self.factory.settings.tls
        if tls is None:
            return reply(454, "4.7.0", "TLS is not available now")
        self._machine.answer(_READY_FOR_TLS)
        self._flush()
        if self._machine.plaintext_pending:
            self._refuse_injection()
            return None
        self._write = self.transport.write
        self.transport.startTLS(tls)
        return None

    def _refuse_injection(self) -> None:
        # Commands behind STARTTLS in the clear are an injection (CVE-2011-0411): no session.
        self._lost = True
        self.transport.abortConnection()

    def _auth_begin(self, event: AuthBegin) -> Answer:
        authenticator = self.factory.settings.authenticator
        if authenticator is None:
            return reply(502, "5.5.1", "AUTH is not offered here")
        self._exchange = authenticator.begin(event.mechanism)
        answer: Answer = self._exchange.step(self._session, event.initial)
        return answer

    def _auth_response(self, event: AuthResponse) -> Answer:
        if event.octets is None or self._exchange is None:
            return CANCELLED
        answer: Answer = self._exchange.step(self._session, event.octets)
        return answer

    def _reset(self, event: Reset) -> Answer:
        self._drop_transaction()
        return _RESET

    def _quit(self, event: Quit) -> Answer:
        self._machine.answer(_BYE)
        self._hang_up()
        return None

    def _verify(self, event: Verify) -> Answer:
        return _CANNOT_VERIFY

    def _expand(self, event: Expand) -> Answer:
        return _NO_EXPANSION

    def _refused(self, event: Refused) -> Answer:
        # Too many recipients is no fault of the client's: it sends the rest in another transaction.
        self._errors += event.reply.code != 452
        if event.reply.hang_up:
            self._hang_up()
        elif self._errors >= MOST_ERRORS:
            self._say_goodbye(_TOO_MANY_ERRORS)
        return None


_EVENTS: dict[type[Event], Callable[[SMTPReceiver, Any], Answer]] = {
    Hello: SMTPReceiver._hello,
    MailFrom: SMTPReceiver._mail,
    RcptTo: SMTPReceiver._rcpt,
    DataBegin: SMTPReceiver._data,
    ContentChunk: SMTPReceiver._chunk,
    ContentEnd: SMTPReceiver._content_end,
    StartTLS: SMTPReceiver._start_tls,
    AuthBegin: SMTPReceiver._auth_begin,
    AuthResponse: SMTPReceiver._auth_response,
    Reset: SMTPReceiver._reset,
    Quit: SMTPReceiver._quit,
    Verify: SMTPReceiver._verify,
    Expand: SMTPReceiver._expand,
    Refused: SMTPReceiver._refused,
}


@dataclass(frozen=True, slots=True)
class ReceiverSettings:
    """What the sessions of one listener share.

    ``tls`` makes the contexts for STARTTLS; ``implicit_tls`` says that the transport begins with a
    handshake; ``trusted_networks`` may relay without AUTH.
    """

    offer: Offer
    intake: Intake
    clock: IReactorTime
    tls: IOpenSSLContextFactory | None = None
    implicit_tls: bool = False
    authenticator: Authenticator | None = None
    trusted_networks: Sequence[IPv4Network | IPv6Network] = ()


class SMTPReceiverFactory(Factory):
    """Makes the sessions of one listener."""

    noisy = False

    def __init__(self, settings: ReceiverSettings) -> None:
        self.settings = settings
        self.sessions: set[SMTPReceiver] = set()
        self.stopping = False
        self._all_ended: Deferred[None] | None = None

    def buildProtocol(self, addr: IAddress | None) -> SMTPReceiver:  # type: ignore[override]
        host = getattr(addr, "host", "127.0.0.1")
        session = SessionFacts(
            role=self.settings.offer.role,
            client_host=host,
            client_port=getattr(addr, "port", 0),
            trusted=self._is_trusted(host),
        )
        return SMTPReceiver(self, session)

    def stop(self) -> Deferred[None]:
        """End every session when its message is answered, or after ``CLOSING_SECONDS`` at once."""
        self.stopping = True
        self._all_ended = Deferred()
        for session in tuple(self.sessions):
            session.stop()
        timer = self.settings.clock.callLater(CLOSING_SECONDS, self._abort_all)

        def stopped(_: None) -> None:
            if timer.active():
                timer.cancel()

        self._tell_when_all_ended()
        return self._all_ended.addCallback(stopped)

    def ended(self, session: SMTPReceiver) -> None:
        """A session's connection is gone."""
        self.sessions.discard(session)
        self._tell_when_all_ended()

    def _abort_all(self) -> None:
        for session in tuple(self.sessions):
            session.abort()

    def _tell_when_all_ended(self) -> None:
        waiting = self._all_ended
        if waiting is not None and not self.sessions and not waiting.called:
            waiting.callback(None)

    def _is_trusted(self, host: str) -> bool:
        networks = self.settings.trusted_networks
        if not networks:
            return False
        address = ip_address(host.partition("%")[0])
        return any(address in network for network in networks)
