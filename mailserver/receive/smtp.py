"""SMTP from a transport: bytes to ``wire/smtp_server.py``, one event at a time, replies back."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from ipaddress import IPv6Address, ip_address
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IHandshakeListener, IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mailserver import maillog
from mailserver.receive.session import Answer, BeginTLS, ReceiverSettings, Session
from mailserver.receive.transaction import TRY_LATER
from mailserver.sockets import direct_writer
from mailserver.values.reply import Reply, reply
from mailserver.values.session import SessionFacts, TLSFacts
from mailserver.wire.sasl import Challenge
from mailserver.wire.smtp_events import Refused
from mailserver.wire.smtp_server import SmtpServer

IDLE_SECONDS = 300.0
"""How long a silent client is waited for (RFC 5321 §4.5.3.2.7: at least five minutes)."""

HANDSHAKE_SECONDS = 30.0
"""How long a TLS handshake may take."""

CLOSING_SECONDS = 10.0
"""How long a stopping server lets sessions finish their message, and a closing connection its octets."""

MOST_PENDING = 128 * 1024
"""Octets that wait behind an unanswered command before we stop reading."""

_READY_FOR_TLS = reply(220, "2.0.0", "Ready to start TLS")
_IDLE = reply(421, "4.4.2", "Idle for too long; closing the connection", hang_up=True)
_STOPPING = reply(421, "4.3.2", "The server is stopping; please try again later", hang_up=True)


@implementer(IPushProducer, IHandshakeListener)
class SMTPReceiver(Protocol):
    """The flow of one connection; what is said is ``Session``'s.

    An event is answered before the next is looked at, so replies leave in order.  While an answer
    is awaited, while the disk lags, or while the client does not read what we wrote, its further
    octets stay in the kernel.
    """

    factory: SMTPReceiverFactory
    transport: Any
    _write: Callable[[bytes], object]

    def __init__(self, factory: SMTPReceiverFactory, facts: SessionFacts) -> None:
        self.factory = factory
        self._settings = factory.settings
        self._session = Session(factory.settings, facts)
        self._machine = SmtpServer(factory.settings.offer)
        self._awaiting = False
        self._output_full = False
        self._paused = False
        self._pending = 0
        self._lost = False
        self._timer: IDelayedCall | None = None

    # -- the transport calls ---------------------------------------------------------------

    def connectionMade(self) -> None:
        self.factory.sessions.add(self)
        self._write = direct_writer(self.transport)
        self.transport.registerProducer(self, True)
        implicit_tls = self._settings.implicit_tls
        self._set_timer(HANDSHAKE_SECONDS if implicit_tls else IDLE_SECONDS)
        if not implicit_tls:
            self._machine.greet()
            self._flush()

    def handshakeCompleted(self) -> None:
        """TLS stands: what was said before it is forgotten."""
        if self._machine.plaintext_pending:
            self._refuse_injection()
            return
        connection = self.transport.getHandle()
        cipher = connection.get_cipher_name() or "unknown"
        self._session.tls_started(TLSFacts(connection.get_protocol_version_name(), cipher))
        self._machine.tls_started()
        self._set_timer(IDLE_SECONDS)
        if self._settings.implicit_tls:
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
        self._session.drop_transaction()

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
            self._take(self._session.answer(event))
            if type(event) is Refused and event.reply.hang_up:
                self._hang_up()
        self._flush()
        self._set_reading()
        if self.factory.stopping:
            self.stop()

    def _take(self, answer: Answer) -> None:
        if answer is None:
            return
        if isinstance(answer, Reply):
            self._machine.answer(answer)
            if answer.hang_up:
                self._hang_up()
        elif isinstance(answer, Deferred):
            self._await(answer)
        elif isinstance(answer, Future):
            # A failure to write is told by commit; here only the waiting counts.
            self._await(self._settings.intake.bridge.deferred(answer).addBoth(lambda _: None))
        elif isinstance(answer, Challenge):
            self._machine.challenge(answer.octets)
        else:
            self._begin_tls(answer)

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

    def _begin_tls(self, answer: BeginTLS) -> None:
        self._machine.answer(_READY_FOR_TLS)
        self._flush()
        if self._machine.plaintext_pending:
            self._refuse_injection()
            return
        self._set_timer(HANDSHAKE_SECONDS)
        self._write = self.transport.write
        self.transport.startTLS(answer.context)

    def _refuse_injection(self) -> None:
        # Commands behind STARTTLS in the clear are an injection (CVE-2011-0411): no session.
        self._lost = True
        self.transport.abortConnection()

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

    # -- the end ---------------------------------------------------------------------------

    def _hang_up(self) -> None:
        self._flush()
        self._session.drop_transaction()
        self._awaiting = True
        self._lost = True
        self._set_timer(CLOSING_SECONDS)
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def _set_timer(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._settings.clock.callLater(seconds, self._timed_out)

    def _timed_out(self) -> None:
        self._timer = None
        if self._lost or self._output_full or self._is_handshaking:
            self.transport.abortConnection()
            return
        self._say_goodbye(_IDLE)

    @property
    def _is_handshaking(self) -> bool:
        return self._machine.is_handshaking or (
            self._settings.implicit_tls and self._session.facts.tls is None
        )

    def _say_goodbye(self, goodbye: Reply) -> None:
        self._machine.answer(goodbye)
        self._hang_up()

    def stop(self) -> None:
        """The server is stopping: a session between messages ends, one in DATA may finish."""
        if not self._lost and not self._awaiting and not self._machine.is_reading_content:
            self._say_goodbye(_STOPPING)

    def abort(self) -> None:
        """End the connection at once, whatever is under way."""
        self.transport.abortConnection()


class SMTPReceiverFactory(Factory):
    """Makes the sessions of one listener."""

    noisy = False

    def __init__(self, settings: ReceiverSettings) -> None:
        self.settings = settings
        self.sessions: set[SMTPReceiver] = set()
        self.stopping = False
        self._all_ended: Deferred[None] | None = None

    def buildProtocol(self, addr: IAddress | None) -> SMTPReceiver:  # type: ignore[override]
        host = plain_host(getattr(addr, "host", "127.0.0.1"))
        facts = SessionFacts(
            role=self.settings.offer.role,
            client_host=host,
            client_port=getattr(addr, "port", 0),
            trusted=self._is_trusted(host),
        )
        return SMTPReceiver(self, facts)

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
        address = ip_address(host)
        return any(address in network for network in networks)


def plain_host(host: str) -> str:
    """A peer's address without a zone, and an IPv4 one that came over an IPv6 socket as IPv4."""
    address = ip_address(host.partition("%")[0])
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)
