"""SMTP from a transport: bytes to ``wire/smtp_server.py``, one event at a time, replies back."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IHandshakeListener,
    IPushProducer,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mailserver import maillog
from mailserver.channel_binding import channel_binding
from mailserver.connections import CLOSING_SECONDS, SessionFactory, Times, TurnedAway, is_in
from mailserver.receive.session import Answer, BeginTLS, ReceiverSettings, Session
from mailserver.receive.transaction import TRY_LATER
from mailserver.sockets import direct_writer
from mailserver.values.reply import Reply, reply
from mailserver.values.session import SessionFacts, TLSFacts
from mailserver.wire.sasl import Challenge
from mailserver.wire.smtp_events import ContentChunk, Expand, Offer, Refused, Verify
from mailserver.wire.smtp_server import SmtpServer
from mailserver.wire.strays import HTTP_METHODS, stray_protocol

CHECK_SECONDS = 30.0
"""How often a session's times are looked at; so nothing has to be set anew for each command."""

ERRORS_SECONDS = 1.0
"""How long each reply is held back once a session has had its share of errors."""

ERRORS_SLOW, ERRORS_MOST = 5, 15
"""Refused commands before replies are held back, and before the session is ended with 421."""

MOST_PENDING = 128 * 1024
"""Octets that wait behind an unanswered command before we stop reading."""

_READY_FOR_TLS = reply(220, "2.0.0", "Ready to start TLS")
_TOO_MANY_ERRORS = reply(421, "4.7.0", "Too many errors; closing the connection", hang_up=True)
_TOO_LONG = reply(421, "4.7.0", "The session has lasted too long; closing the connection", hang_up=True)
_TOO_SLOW = reply(421, "4.4.2", "The message comes too slowly; closing the connection", hang_up=True)
_TOO_EARLY = reply(554, "5.5.1", "You talked before the greeting; closing the connection", hang_up=True)
_IDLE = reply(421, "4.4.2", "Idle for too long; closing the connection", hang_up=True)
_STOPPING = reply(421, "4.3.2", "The server is stopping; please try again later", hang_up=True)


@implementer(IPushProducer, IHandshakeListener, IHalfCloseableProtocol)
class SMTPReceiver(Protocol):
    """The flow of one connection; what is said is ``Session``'s.

    An event is answered before the next is looked at, so replies leave in order.  While an answer
    is awaited, while the disk lags, or while the client does not read what we wrote, its further
    octets stay in the kernel.
    """

    factory: SMTPReceiverFactory
    transport: Any
    _write: Callable[[bytes], object]

    def __init__(self, factory: SMTPReceiverFactory, facts: SessionFacts, offer: Offer) -> None:
        self.factory = factory
        self._settings = factory.settings
        self._session = Session(factory.settings, facts)
        self._machine = SmtpServer(offer)
        self._machine.mark = partial(_marked, facts)  # not self: nothing leads from a session to itself
        self._awaiting = False
        self._output_full = False
        self._paused = False
        self._held = False
        self._ungreeted = False
        self._spoken = False
        self._lost = False
        self._has_said_all = False
        self._pending = 0
        self._heard = 0
        self._errors = 0
        self._began = self._since = 0.0
        self._timer: IDelayedCall | None = None

    @property
    def host(self) -> str:
        """The client's address."""
        return self._session.facts.client_host

    # -- the transport calls ---------------------------------------------------------------

    def connectionMade(self) -> None:
        self.factory.began(self)
        self._write = direct_writer(self.transport)
        self.transport.registerProducer(self, True)
        self._began = self._since = self._settings.clock.seconds()
        if self._settings.implicit_tls:
            self._set_timer(self._times.handshake)
        elif (wait := self._times.greet_wait) and self._is_stranger:
            self._ungreeted = True
            self._hold(wait)
        else:
            self._set_timer(self._times.greeting)
            self._greet()

    def _greet(self) -> None:
        self._machine.greet()
        self._flush()

    def handshakeCompleted(self) -> None:
        """TLS stands: what was said before it is forgotten."""
        if self._machine.plaintext_pending:
            self._refuse_injection()
            return
        connection = self.transport.getHandle()
        cipher = connection.get_cipher_name() or "unknown"
        version = connection.get_protocol_version_name()
        self._session.tls_started(TLSFacts(version, cipher, partial(channel_binding, connection)))
        self._machine.tls_started()
        self._begin_phase(self._times.command)
        if self._settings.implicit_tls:
            self._greet()

    def dataReceived(self, data: bytes) -> None:
        if not self._spoken:
            self._spoken = True
            if self._is_no_mail(data):
                return
        self._heard += len(data)
        self._machine.feed(data)
        if self._awaiting or self._output_full:
            self._pending += len(data)
            self._set_reading()
            return
        self._run()

    def _is_no_mail(self, data: bytes) -> bool:
        """Whether the first octets show that this is no mail client, which is sent away then."""
        if self._ungreeted:
            self._turn_away("talked before the greeting")
            self._held = False
            self._say_goodbye(_TOO_EARLY)
        elif stray := stray_protocol(data):
            self._turn_away(f"spoke {stray} on a plain port")
            self._lost = True
            self.transport.unregisterProducer()
            self.transport.loseConnection()
        else:
            return False
        return True

    def _turn_away(self, why: str) -> None:
        maillog.turned_away("smtp", self.host, why)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = True
        self.factory.ended(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._session.facts.gone = True
        self._session.drop_transaction()

    def readConnectionLost(self) -> None:
        """The client says no more, but may read on: it gets the answers to all that it has said.

        Exim sends QUIT behind its last octets and closes its side. Were that an end, its message
        would be kept and it would never hear so, and send it again.
        """
        self._has_said_all = True
        if not self._awaiting and not self._output_full:
            self._run()

    def writeConnectionLost(self) -> None:
        """We never close our side alone."""

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
        progress = False
        while not self._awaiting and not self._output_full:
            event = machine.next_event()
            if event is None:
                break
            kind = type(event)
            progress = progress or kind is not ContentChunk
            answer = self._session.answer(event)
            self._take(answer)
            if kind is Refused:
                self._refused(event)
            elif kind is Verify or kind is Expand:
                self._count_question(answer)
        if progress:
            self._since = self._settings.clock.seconds()
            self._heard = 0
        self._flush()
        self._set_reading()
        if self._has_said_all and not self._awaiting and not self._output_full and not self._lost:
            self._hang_up()
        elif self.factory.stopping:
            self.stop()

    def _refused(self, event: Any) -> None:
        """The machine has refused a command and queued the reply."""
        if event.command in HTTP_METHODS:
            self._turn_away("spoke HTTP on a plain port")
            self._hang_up()
        elif event.reply.hang_up:
            self._hang_up()
        else:
            self._count_error(event.reply)

    def _count_error(self, answer: Reply) -> None:
        """Whoever makes errors gets slower answers, and in the end none (after Postfix's limits)."""
        if answer.code >= 500:
            self._add_error()

    def _add_error(self) -> None:
        if self._lost:
            return
        self._errors += 1
        if self._errors >= (ERRORS_MOST if self._times is self._settings.times else ERRORS_SLOW):
            self._say_goodbye(_TOO_MANY_ERRORS)
        elif self._errors > ERRORS_SLOW and not self._is_known:
            self._hold(ERRORS_SECONDS)

    def _count_question(self, answer: Answer) -> None:
        """What a stranger is told by VRFY or EXPN counts as an error, so that nobody harvests addresses."""
        if isinstance(answer, Reply) and answer.code == 250 and not self._is_known:
            self._add_error()

    def _take(self, answer: Answer) -> None:
        if answer is None:
            return
        if isinstance(answer, Reply):
            self._machine.answer(answer)
            if answer.hang_up:
                self._hang_up()
            elif answer.code >= 500:
                self._count_error(answer)
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
            if isinstance(answer, Failure):
                answer = self._fault(answer)
            if self._lost:
                return
            self._take(answer)
            if was_waiting and not self._lost:
                self._run()

        was_waiting = False
        later.addBoth(arrived)
        was_waiting = not finished

    def _fault(self, failure: Failure) -> Reply:
        maillog.fault("answering a command", failure.value)
        return TRY_LATER

    def _begin_tls(self, answer: BeginTLS) -> None:
        self._machine.answer(_READY_FOR_TLS)
        self._flush()
        if self._machine.plaintext_pending:
            self._refuse_injection()
            return
        self._begin_phase(self._times.handshake)
        self._write = self._settings.start_tls(self.transport, answer.context)

    def _refuse_injection(self) -> None:
        # Commands behind STARTTLS in the clear are an injection (CVE-2011-0411): no session.
        self._lost = True
        self.transport.abortConnection()

    def _flush(self) -> None:
        if self._held:
            return
        if output := self._machine.take_output():
            self._write(output)

    def _set_reading(self) -> None:
        pause = self._output_full or (self._awaiting and self._pending > MOST_PENDING)
        if pause != self._paused and not self._lost and not self._has_said_all:
            self._paused = pause
            if pause:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    # -- time ------------------------------------------------------------------------------

    @property
    def _times(self) -> Times:
        """What the client may take: less while the server is pressed, unless it is a known one."""
        facts, settings = self._session.facts, self._settings
        pressed = self.factory.connections.pressed and not facts.trusted and not facts.exempt
        return settings.pressed_times if pressed else settings.times

    @property
    def _is_known(self) -> bool:
        return self._session.facts.trusted or self._session.facts.account is not None

    @property
    def _is_stranger(self) -> bool:
        facts = self._session.facts
        return facts.role == "smtp" and not facts.trusted and not facts.exempt

    def _set_timer(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        seconds = max(min(seconds, CHECK_SECONDS), 0.0)
        self._timer = self._settings.clock.callLater(seconds, self._time_is_up)

    def _begin_phase(self, seconds: float) -> None:
        self._since = self._settings.clock.seconds()
        self._set_timer(seconds)

    def _hold(self, seconds: float) -> None:
        """Say nothing and hear nothing for a while."""
        self._held = self._awaiting = True
        self._set_timer(seconds)

    def hurry(self) -> None:
        """The limits have changed: nobody has longer than they allow now."""
        if not self._held and not self._lost and self._timer is not None:
            self._set_timer(self._remaining())

    def _remaining(self) -> float:
        """Seconds until the phase, or the session, has lasted as long as it may.

        Octets alone win no time: only a command does, or enough of a message in the time for it.
        """
        times = self._times
        if self._is_handshaking:
            phase = times.handshake
        elif self._machine.is_reading_content:
            phase = times.content
        else:
            phase = times.command if self._spoken else times.greeting
        now = self._settings.clock.seconds()
        return min(self._since + phase, self._began + times.session) - now

    def _time_is_up(self) -> None:
        self._timer = None
        if self._held and not self._lost:
            self._release()
            return
        now = self._settings.clock.seconds()
        times = self._times
        if self._awaiting and not self._lost:
            self._since = now  # the client waits for us
        elif self._machine.is_reading_content and self._heard >= times.content * times.least_rate:
            self._since = now
            self._heard = 0
        if self._lost or (remaining := self._remaining()) <= 0:
            self._time_out(now - self._began >= times.session)
        else:
            self._set_timer(remaining)

    def _release(self) -> None:
        """Go on after ``_hold``."""
        self._held = self._awaiting = False
        self._begin_phase(self._times.command if self._spoken else self._times.greeting)
        if self._ungreeted:
            self._ungreeted = False
            self._greet()
        self._flush()
        self._run()

    def _time_out(self, is_session: bool) -> None:
        if self._lost or self._output_full or self._is_handshaking:
            self.transport.abortConnection()
        elif is_session and self._awaiting:
            self._set_timer(CLOSING_SECONDS)  # it has its answer first
        elif is_session:
            self._say_goodbye(_TOO_LONG)
        else:
            self._say_goodbye(_TOO_SLOW if self._machine.is_reading_content else _IDLE)

    # -- the end ---------------------------------------------------------------------------

    def _hang_up(self) -> None:
        self._held = False
        self._flush()
        self._session.drop_transaction()
        self._awaiting = True
        self._lost = True
        self._set_timer(CLOSING_SECONDS)
        self.transport.unregisterProducer()
        self.transport.loseConnection()

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


def _marked(facts: SessionFacts, refusal: Reply, command: str) -> Reply:
    return maillog.said_no(refusal, facts, command)


class SMTPReceiverFactory(SessionFactory[SMTPReceiver]):
    """Makes the sessions of one listener."""

    protocol_name = "smtp"
    refusal = b"421 4.7.0 %s; please try again later\r\n"

    def __init__(self, settings: ReceiverSettings) -> None:
        super().__init__(settings.clock, settings.connections, settings.implicit_tls)
        self.settings = settings
        self._closed = b"521 %s does not accept mail\r\n" % settings.offer.hostname.encode()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        if self.settings.closed:
            # RFC 7504 §3: no enhanced status in a greeting.  Under TLS nobody could read it.
            return TurnedAway(b"" if self.settings.implicit_tls else self._closed)
        return super().buildProtocol(addr)

    def session_for(self, host: str, port: int) -> SMTPReceiver:
        settings = self.settings
        facts = SessionFacts(
            role=settings.offer.role,
            client_host=host,
            client_port=port,
            trusted=is_in(host, settings.trusted_networks),
            exempt=self.connections.is_exempt(host),
            began=time.time(),
        )
        normalize = settings.offer.normalize or is_in(host, settings.normalize)
        return SMTPReceiver(self, facts, _offer_for(settings.offer, normalize, facts.trusted))


@lru_cache(maxsize=64)
def _offer_for(offer: Offer, normalize: bool, trusted: bool) -> Offer:
    """What a listener offers to one kind of client."""
    return replace(offer, normalize=normalize, trusted=trusted)
