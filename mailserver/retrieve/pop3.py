"""POP3 from a transport: bytes to ``wire/pop3_server.py``, one event at a time, responses back."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mailserver import maillog
from mailserver.channel_binding import channel_binding
from mailserver.connections import SessionFactory, is_in
from mailserver.interfaces import LoggedIn
from mailserver.retrieve.logging_in import LoggingIn
from mailserver.retrieve.occupants import IDLE_SECONDS as GIVE_WAY_SECONDS
from mailserver.retrieve.opening import Opening
from mailserver.retrieve.outlet import Outlet
from mailserver.retrieve.patience import Patience
from mailserver.retrieve.reading import Ahead, Reading, Unsent, transmit
from mailserver.retrieve.settings import LOGIN_SECONDS, MOST_PENDING, PRESSED_LOGIN_SECONDS, Pop3Settings
from mailserver.retrieve.tally import Tally
from mailserver.values.session import TLSFacts
from mailserver.wire.pop3_events import (
    Apop,
    AuthBegin,
    AuthResponse,
    Event,
    HangUp,
    LogIn,
    Retrieve,
    StartTLS,
    Transmit,
    Update,
    XClient,
)
from mailserver.wire.pop3_offer import Pop3Offer
from mailserver.wire.pop3_server import OUTPUT_OCTETS, Pop3Server
from mailserver.wire.strays import stray_protocol


@implementer(IPushProducer, IHandshakeListener, IHalfCloseableProtocol)
class Pop3Session(Protocol):
    """One POP3 session.

    An event is answered before the next is looked at.  Nothing new is produced while the client
    does not read what was written, and it is not heard any further once it has sent too much ahead.
    """

    factory: Pop3Factory
    transport: Any

    def __init__(self, factory: Pop3Factory, offer: Pop3Offer, host: str) -> None:
        self.factory = factory
        self._settings = factory.settings
        self.host = host
        self._tls = self._settings.implicit_tls
        self._machine = Pop3Server(offer, self._tls, is_in(host, self._settings.proxies))
        self._outlet = Outlet(self._machine)
        self._tally = Tally()
        outlet = self._outlet  # not self: see connectionLost
        self._logging_in = LoggingIn(self._settings.authenticator, self._machine, lambda: outlet.is_lost)
        self._facts: TLSFacts | None = None
        self._opening: Opening | None = None
        self._reading: Reading | None = None
        self._waiting = self._tls
        self._running = False
        self._paused = False
        self._closing = False
        self._spoken = False
        self._half_closed = False
        self._stopping = False
        self._patience = Patience(self._settings.clock, self._timed_out, self._no_handshake)
        self._ending = "Connection lost"

    # -- the transport calls ---------------------------------------------------------------------

    def connectionMade(self) -> None:
        self.factory.began(self)
        self.transport.registerProducer(self, True)
        self._outlet.open(self.transport, direct=not self._tls)
        self._patience.begin(self._login_seconds)
        if self._tls:
            self._patience.expect_handshake()
        else:
            self._machine.greet()
            self._run()

    def handshakeCompleted(self) -> None:
        """TLS stands: greet, or forget what was said before it (RFC 2595 §4)."""
        connection = self.transport.getHandle()
        version, cipher = connection.get_protocol_version_name(), connection.get_cipher_name() or "unknown"
        self._facts = TLSFacts(version, cipher, partial(channel_binding, connection))
        self._patience.handshake_done()
        if self._settings.implicit_tls:
            self._machine.greet()
        else:
            self._machine.tls_started()
        self._tls = True
        self._resume(None)

    @property
    def _login_seconds(self) -> float:
        connections = self.factory.connections
        pressed = connections.pressed and not connections.is_exempt(self.host)
        return PRESSED_LOGIN_SECONDS if pressed else LOGIN_SECONDS

    def hurry(self) -> None:
        """The limits have changed: who has not logged in has no longer than they allow now."""
        if not self._closing:
            self._patience.hurry(self._login_seconds)

    def dataReceived(self, data: bytes) -> None:
        if self._closing:
            return
        if not self._spoken:
            self._spoken = True
            if stray := stray_protocol(data):
                maillog.turned_away("pop3", self.host, f"spoke {stray} on a plain port")
                self._leave()
                return
        self._patience.spoke()
        self._outlet.turn_octets = 0
        self._machine.feed(data)
        if self._waiting or self._outlet.is_full:
            self._set_reading()
        else:
            self._run()

    def readConnectionLost(self) -> None:
        """The client says no more (``printf … | nc``): what it has said is answered, then it is over."""
        self._half_closed = True
        if not (self._waiting or self._outlet.is_full or self._closing):
            self._leave()

    def writeConnectionLost(self) -> None:
        """The client takes no more."""
        self._abort("Connection lost")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._closing = True
        self._patience.end()
        if self._tally.user:
            self._settings.occupants.leave(self._tally.account, self)
            self._tally.tell(self.host, self._tls, self._ending, self._settings.visited)
        self._outlet.lose()
        if self._opening is not None:
            self._opening.cancel()
        if not self._waiting:
            self._release()
        self.factory.ended(self)
        # A session with the list of 200,000 messages does not wait for Python to look for rings.
        self._machine.forget()

    def pauseProducing(self) -> None:
        """The client does not read: produce nothing until it does."""
        self._outlet.is_full = True

    def resumeProducing(self) -> None:
        self._outlet.is_full = False
        self._outlet.drained()
        self._patience.read()
        self._outlet.found_room()
        if not self._waiting:
            self._run()

    def stopProducing(self) -> None:
        self._outlet.is_full = True

    # -- one event after another -----------------------------------------------------------------

    def _run(self) -> None:
        if self._running:
            return
        self._running = True
        try:
            self._answer_events()
        finally:
            self._running = False
        if self._waiting or self._outlet.is_full or self._paused:
            self._set_reading()  # otherwise no more than an unfinished line is left

    def _answer_events(self) -> None:
        machine, outlet = self._machine, self._outlet
        while not (self._waiting or outlet.is_full or self._closing):
            event = machine.next_event()
            if event is not None:
                _EVENTS[type(event)](self, event)
            elif outlet.flush() < OUTPUT_OCTETS:  # it did not rest: nothing is left to answer
                if self._half_closed:
                    self._leave()
                elif self._reading is not None and not outlet.is_full:
                    self._reading.look_ahead()
                return
        outlet.flush()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Take no further event until ``work`` has answered this one."""
        self._waiting = True
        Deferred.fromCoroutine(work).addErrback(self._fault).addCallback(self._resume)

    def _resume(self, _: object) -> None:
        self._waiting = False
        if self._outlet.is_lost:
            self._release()
            return
        if self._stopping:
            self._end("The server is stopping", "Server stopped", "SYS/TEMP")
        self._run()

    def _fault(self, failure: Failure) -> None:
        if failure.check(Unsent):
            self._abort("Message unreadable")
            return
        maillog.fault("a POP3 session", failure.value)
        self._abort("Fault")

    def _set_reading(self) -> None:
        pause = self._machine.pending_octets > MOST_PENDING
        if pause != self._paused and not self._closing:
            self._paused = pause
            if pause:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    # -- time, and the end -----------------------------------------------------------------------

    def _no_handshake(self) -> None:
        self._abort("No TLS handshake")

    def _timed_out(self) -> None:
        logged_in = self._machine.is_logged_in
        if self._closing or self._outlet.is_full or (self._waiting and not logged_in):
            self._abort("Timed out")
        elif self._waiting:
            self._patience.again()
        elif logged_in:
            self._end("Idle for too long, nothing was deleted", "Disconnected for inactivity")
        else:
            self._end("Nobody has logged in for too long", "No log-in")

    def _end(self, words: str, ending: str, code: str = "") -> None:
        self._ending = ending
        self._machine.end(words, code)
        self._run()

    def stop(self) -> None:
        """End as soon as the command at hand is answered: the server is stopping."""
        self._stopping = True
        if not self._waiting and not self._closing:
            self._resume(None)

    def abort(self) -> None:
        """End now."""
        self._abort("Server stopped")

    def _abort(self, ending: str) -> None:
        if not self._outlet.is_lost:
            self._ending = ending
            self._closing = True
            self.transport.abortConnection()

    def _hang_up(self, event: HangUp) -> None:
        self._outlet.flush()
        self._leave()

    def _leave(self) -> None:
        self._closing = True
        self._patience.last()
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def _release(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.release()

    # -- log-in ----------------------------------------------------------------------------------

    def _start_tls(self, event: StartTLS) -> None:
        self._outlet.flush()
        if self._machine.plaintext_pending:
            # Commands behind STLS in clear are an injection (CVE-2011-0411): no session.
            self._abort("Commands behind STLS")
            return
        self._waiting = True
        self._patience.expect_handshake()
        assert self._settings.tls is not None  # STLS is not offered without
        self._settings.start_tls(self.transport, self._settings.tls)
        self._outlet.open(self.transport, direct=False)

    def _speak_for(self, event: XClient) -> None:
        """XCLIENT: limits and delays are the client's own from now on."""
        host = event.client.host
        why = self.factory.moved(self, host) if host else ""
        self._machine.moved()
        if why:
            self._end(why, "Turned away", "SYS/TEMP")
        elif event.client.session:
            maillog.proxied("pop3", self.host, event.client.session)

    def _log_in(self, event: LogIn | Apop | AuthBegin | AuthResponse) -> None:
        asked = self._logging_in.ask(event, self.host, self._facts)
        if asked is not None:
            self._begin(self._wait_for(asked))

    async def _wait_for(self, asked: Deferred[Any]) -> None:
        result = await asked
        if not self._outlet.is_lost and (login := self._logging_in.answer(result)) is not None:
            await self._open(login)

    async def _open(self, login: LoggedIn) -> None:
        settings = self._settings
        self._opening = Opening(settings, self._machine, self._outlet, login.avatar, lambda: self._stopping)
        drop = await self._opening.drop()
        self._opening = None
        if drop is None:
            return
        self._reading = Reading(
            drop,
            self._machine,
            self._outlet,
            self._tally,
            settings.workers,
            settings.direct_octets,
            self.factory.ahead,
        )
        if self._outlet.is_lost:
            return
        account = str(login.avatar.account.address)
        self._tally.began(login.username, account, drop.listings)
        settings.occupants.enter(account, self)
        maillog.login("pop3", self.host, login.username, self._tls)
        self._machine.logged_in(drop.listings)
        self._patience.logged_in()

    def give_way(self) -> bool:
        """See ``Occupant``."""
        busy = self._waiting or self._outlet.is_full or self._closing or self._machine.has_marks
        if busy or self._machine.pending_octets or self._patience.silence < GIVE_WAY_SECONDS:
            return False
        self._settings.occupants.leave(self._tally.account, self)
        self._end("Another session takes the maildrop over", "Gave way to another session", "IN-USE")
        self._release()
        return True

    # -- after log-in ----------------------------------------------------------------------------

    def _retrieve(self, event: Retrieve) -> None:
        assert self._reading is not None
        work = self._reading.retrieve(event)
        if work is not None:
            self._begin(work)

    def _transmit(self, event: Transmit) -> None:
        self._begin(transmit(event, self._machine, self._outlet))

    def _update(self, event: Update) -> None:
        assert self._reading is not None
        self._ending = "Logged out"
        reading, self._reading = self._reading, None
        work = reading.update(event)
        if work is not None:
            self._begin(work)


_EVENTS: dict[type[Event], Callable[[Pop3Session, Any], None]] = {
    StartTLS: Pop3Session._start_tls,
    XClient: Pop3Session._speak_for,
    LogIn: Pop3Session._log_in,
    Apop: Pop3Session._log_in,
    AuthBegin: Pop3Session._log_in,
    AuthResponse: Pop3Session._log_in,
    Transmit: Pop3Session._transmit,
    Retrieve: Pop3Session._retrieve,
    Update: Pop3Session._update,
    HangUp: Pop3Session._hang_up,
}


class Pop3Factory(SessionFactory[Pop3Session]):
    """Makes the sessions of one listener."""

    protocol_name = "pop3"
    refusal = b"-ERR [SYS/TEMP] %s; please try again later\r\n"

    def __init__(self, settings: Pop3Settings) -> None:
        super().__init__(settings.clock, settings.connections, settings.implicit_tls)
        self.settings = settings
        self.ahead = Ahead()
        self._offer = Pop3Offer(
            settings.hostname,
            settings.tls is not None,
            settings.allow_cleartext,
            settings.mechanisms,
            math.ceil(settings.login_times.delay) if settings.login_times else 0,
            settings.expire,
            settings.apop,
        )

    def session_for(self, host: str, port: int) -> Pop3Session:
        return Pop3Session(self, self._offer, host)

    def moved(self, session: Pop3Session, host: str) -> str:
        """A proxy says that its client is at ``host``; why that is one connection too many, or ``""``."""
        connections = self.connections
        connections.remove(session.host)
        why = connections.objection(host)
        session.host = host
        connections.add(host)
        if why:
            connections.refused(self.protocol_name, host, why, self._clock.seconds())
        return why
