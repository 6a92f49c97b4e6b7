"""POP3 from a transport: bytes to ``wire/pop3_server.py``, one event at a time, responses back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import (
    IDelayedCall,
    IHandshakeListener,
    IOpenSSLContextFactory,
    IPushProducer,
    IReactorTime,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mailserver import maillog
from mailserver.channel_binding import channel_binding
from mailserver.connections import Connections, SessionFactory
from mailserver.interfaces import IAuthenticator, ILogin, IMaildrop, LoggedIn, LoginRefused, MaildropInUse
from mailserver.retrieve.history import MOST_MESSAGES, Visit
from mailserver.retrieve.login_times import LoginTimes
from mailserver.retrieve.message import CHUNK_OCTETS, next_chunk, on_the_wire
from mailserver.retrieve.occupants import AGAIN_SECONDS, WAIT_SECONDS, Occupants
from mailserver.retrieve.occupants import IDLE_SECONDS as GIVE_WAY_SECONDS
from mailserver.threads import Workers
from mailserver.values.session import TLSFacts
from mailserver.wire.pop3_events import (
    AuthBegin,
    AuthResponse,
    Event,
    HangUp,
    LogIn,
    Retrieve,
    StartTLS,
    Transmit,
    Update,
)
from mailserver.wire.pop3_server import Pop3Offer, Pop3Server
from mailserver.wire.sasl import Challenge
from mailserver.wire.sasl_mechanisms import PASSWORDS
from mailserver.wire.strays import stray_protocol

HANDSHAKE_SECONDS = 30.0
"""How long a TLS handshake may take."""

LOGIN_SECONDS = 180.0
"""How long a connection may live before somebody has logged in."""

PRESSED_LOGIN_SECONDS = 20.0
"""The same while half of the server's connections are in use."""

IDLE_SECONDS = 600.0
"""How long a silent client is waited for after log-in (RFC 1939 §3: at least ten minutes)."""

LAST_SECONDS = 30.0
"""How long the last response may take to leave."""

MOST_PENDING = 16 * 1024
"""Octets that wait behind an unanswered command before we stop reading."""

DIRECT_OCTETS = 32 * 1024
"""Up to here a message is read in the reactor's thread.

A file of 4 KiB costs about 30 microseconds there, a thread's round trip 100 to 200.  A disk that
is slow to answer stops everybody for one such read; 0 sends every read to a thread.
"""


@dataclass(frozen=True, slots=True)
class Pop3Settings:
    """What the sessions of one listener share.

    ``tls`` makes the contexts for STLS; ``implicit_tls`` says that the transport begins with a
    handshake, and then ``tls`` is not used.  ``authenticator`` gives an ``IMaildropOwner`` by the
    ``mechanisms``, or by name and password; ``workers`` run what blocks.  ``connections`` counts
    those of all listeners.  ``occupants`` are shared by them too; ``login_times`` where log-ins have to
    wait for each other; ``visited`` hears of sessions that fetched or deleted something.
    """

    hostname: str
    authenticator: IAuthenticator
    workers: Workers
    clock: IReactorTime
    tls: IOpenSSLContextFactory | None = None
    implicit_tls: bool = False
    allow_cleartext: bool = False
    mechanisms: tuple[str, ...] = PASSWORDS
    direct_octets: int = DIRECT_OCTETS
    connections: Connections | None = None
    occupants: Occupants = field(default_factory=Occupants)
    login_times: LoginTimes | None = None
    visited: Callable[[Visit], object] | None = None


@implementer(IPushProducer, IHandshakeListener)
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
        self._machine = Pop3Server(offer, self._tls)
        self._login: ILogin | None = None
        self._facts: TLSFacts | None = None
        self._drop: IMaildrop | None = None
        self._output: list[bytes] = []
        self._waiting = self._tls
        self._running = False
        self._output_full = False
        self._paused = False
        self._closing = False
        self._spoken = False
        self._lost = False
        self._stopping = False
        self._room: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None
        self._handshake: IDelayedCall | None = None
        self._user = self._account = ""
        self._heard = 0.0
        self._pause: tuple[IDelayedCall, Deferred[None]] | None = None
        self._fetched: list[str] = []
        self._removed: list[str] = []
        self._ending = "Connection lost"
        self._retrieved = self._octets = self._deleted = self._left = self._failed = 0

    # -- the transport calls ---------------------------------------------------------------------

    def connectionMade(self) -> None:
        self.factory.began(self)
        self.transport.registerProducer(self, True)
        self._timer = self._settings.clock.callLater(self._login_seconds, self._timed_out)
        if self._tls:
            self._expect_handshake()
        else:
            self._machine.greet()
            self._run()

    def handshakeCompleted(self) -> None:
        """TLS stands: greet, or forget what was said before it (RFC 2595 §4)."""
        connection = self.transport.getHandle()
        version, cipher = connection.get_protocol_version_name(), connection.get_cipher_name() or "unknown"
        self._facts = TLSFacts(version, cipher, partial(channel_binding, connection))
        if self._handshake is not None:
            self._handshake.cancel()
            self._handshake = None
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
        if self._timer is not None and not self._machine.is_logged_in and not self._closing:
            self._timer.reset(self._login_seconds)

    def dataReceived(self, data: bytes) -> None:
        if self._closing:
            return
        if not self._spoken:
            self._spoken = True
            if stray := stray_protocol(data):
                maillog.turned_away("pop3", self.host, f"spoke {stray} on a plain port")
                self._leave()
                return
        self._heard = self._settings.clock.seconds()
        self._is_alive()
        self._machine.feed(data)
        if self._waiting or self._output_full:
            self._set_reading()
        else:
            self._run()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = self._closing = True
        for timer in (self._timer, self._handshake):
            if timer is not None:
                timer.cancel()
        self._timer = self._handshake = None
        if self._user:
            self._settings.occupants.leave(self._account, self)
            self._log_session()
        self._end_pause()
        self._found_room()
        if not self._waiting:
            self._release()
        self.factory.ended(self)

    def _log_session(self) -> None:
        maillog.pop3_session(
            client=self.host,
            user=self._user,
            reason=self._ending,
            retrieved=self._retrieved,
            octets=self._octets,
            deleted=self._deleted,
            left=self._left,
        )
        if self._settings.visited is not None and (self._fetched or self._removed):
            self._settings.visited(self._visit())

    def _visit(self) -> Visit:
        return Visit(
            ended=time.time(),
            user=self._account,
            client=self.host,
            tls=self._tls,
            ending=self._ending,
            octets=self._octets,
            fetched_count=self._retrieved,
            fetched=self._fetched,
            deleted_count=self._deleted,
            deleted=self._removed,
            failed=self._failed,
        )

    def pauseProducing(self) -> None:
        """The client does not read: produce nothing until it does."""
        self._output_full = True

    def resumeProducing(self) -> None:
        self._output_full = False
        self._is_alive()
        self._found_room()
        if not self._waiting:
            self._run()

    def stopProducing(self) -> None:
        self._output_full = True

    # -- one event after another -----------------------------------------------------------------

    def _run(self) -> None:
        if self._running:
            return
        self._running = True
        try:
            self._answer_events()
        finally:
            self._running = False
        self._flush()
        self._set_reading()

    def _answer_events(self) -> None:
        while not (self._waiting or self._output_full or self._closing):
            event = self._machine.next_event()
            if event is not None:
                _EVENTS[type(event)](self, event)
            elif self._machine.is_resting:
                self._flush()
            else:
                return

    def _begin(self, work: Coroutine[Deferred[Any], Any, None]) -> None:
        """Take no further event until ``work`` has answered this one."""
        self._waiting = True
        Deferred.fromCoroutine(work).addErrback(self._fault).addCallback(self._resume)

    def _resume(self, _: object) -> None:
        self._waiting = False
        if self._lost:
            self._release()
            return
        if self._stopping:
            self._end("The server is stopping", "Server stopped", "SYS/TEMP")
        self._run()

    def _fault(self, failure: Failure) -> None:
        maillog.fault("a POP3 session", failure.value)
        self._abort("Fault")

    def _put(self, octets: bytes) -> None:
        """Queue behind what the machine has queued."""
        self._output += (self._machine.take_output(), octets)

    def _flush(self) -> None:
        self._output.append(self._machine.take_output())
        octets = b"".join(self._output)
        self._output.clear()
        if octets and not self._lost:
            self.transport.write(octets)

    def _set_reading(self) -> None:
        pause = self._machine.pending_octets > MOST_PENDING
        if pause != self._paused and not self._closing:
            self._paused = pause
            if pause:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    # -- time, and the end -----------------------------------------------------------------------

    def _is_alive(self) -> None:
        if self._timer is not None and self._machine.is_logged_in and not self._closing:
            self._timer.reset(IDLE_SECONDS)

    def _expect_handshake(self) -> None:
        self._handshake = self._settings.clock.callLater(HANDSHAKE_SECONDS, self._no_handshake)

    def _no_handshake(self) -> None:
        self._handshake = None
        self._abort("No TLS handshake")

    def _timed_out(self) -> None:
        self._timer = None
        if self._closing or self._output_full or (not self._machine.is_logged_in and self._waiting):
            self._abort("Timed out")
        elif self._waiting:
            self._timer = self._settings.clock.callLater(IDLE_SECONDS, self._timed_out)
        elif self._machine.is_logged_in:
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
        if not self._lost:
            self._ending = ending
            self._closing = True
            self.transport.abortConnection()

    def _hang_up(self, event: HangUp) -> None:
        self._flush()
        self._leave()

    def _leave(self) -> None:
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._settings.clock.callLater(LAST_SECONDS, self._timed_out)
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def _release(self) -> None:
        drop, self._drop = self._drop, None
        if drop is not None:
            self._settings.workers.call(drop.release).addErrback(
                lambda failure: maillog.fault("releasing a maildrop", failure.value)
            )

    # -- log-in ----------------------------------------------------------------------------------

    def _start_tls(self, event: StartTLS) -> None:
        self._flush()
        if self._machine.plaintext_pending:
            # Commands behind STLS in clear are an injection (CVE-2011-0411): no session.
            self._abort("Commands behind STLS")
            return
        self._waiting = True
        self._expect_handshake()
        self.transport.startTLS(self._settings.tls)

    def _log_in(self, event: LogIn) -> None:
        login = self._settings.authenticator.log_in(event.username, event.password, self.host, self._is_gone)
        self._begin(self._logging_in(login))

    def _auth_begin(self, event: AuthBegin) -> None:
        self._login = self._settings.authenticator.begin(
            event.mechanism, self.host, self._facts, self._is_gone
        )
        self._step(event.initial)

    def _auth_response(self, event: AuthResponse) -> None:
        self._step(event.octets)

    def _is_gone(self) -> bool:
        return self._lost

    def _step(self, response: bytes | None) -> None:
        assert self._login is not None
        result: Any = self._login.step(response)
        if isinstance(result, Challenge):
            self._machine.challenge(result.octets)
        else:
            self._begin(self._logging_in(result if isinstance(result, Deferred) else succeed(result)))

    async def _logging_in(self, login: Deferred[Any]) -> None:
        result = await login
        if self._lost:
            return
        if isinstance(result, Challenge):
            self._machine.challenge(result.octets)
        elif isinstance(result, LoggedIn):
            await self._open(result)
        else:
            self._refuse(result)

    def _refuse(self, refused: LoginRefused) -> None:
        if refused.reason == "malformed":
            self._machine.auth_failed(refused.text)
        elif refused.reason == "unavailable":
            self._machine.login_refused("SYS/TEMP", "Passwords cannot be checked now", counts=False)
        else:
            self._machine.login_refused("AUTH", refused.text or "Wrong user name or password")

    async def _open(self, login: LoggedIn) -> None:
        drop = await self._opened(login)
        if drop is None:
            return
        self._drop = drop
        if self._lost:
            return
        name = str(login.avatar.account.address)
        times = self._settings.login_times
        if times is not None and not await self._is_late_enough(times, name):
            return
        self._user, self._left = login.username, len(drop.listings)
        self._account = name
        self._settings.occupants.enter(name, self)
        maillog.login("pop3", self.host, login.username, self._tls)
        self._machine.logged_in(drop.listings)
        self._is_alive()

    async def _opened(self, login: LoggedIn) -> IMaildrop | None:
        """The maildrop, or ``None`` after a refusal; who has it gives way, or is waited for a while."""
        deadline = self._settings.clock.seconds() + WAIT_SECONDS
        while not self._lost:
            try:
                drop: IMaildrop = await login.avatar.maildrop()
                return drop
            except MaildropInUse:
                if self._stopping or self._settings.clock.seconds() >= deadline:
                    self._machine.login_refused("IN-USE", "Another session has the maildrop", counts=False)
                    return None
            except Exception as error:
                maillog.fault("opening a maildrop", error)
                self._machine.login_refused("SYS/TEMP", "The maildrop cannot be opened now", counts=False)
                return None
            if not self._lost:
                self._settings.occupants.ask(str(login.avatar.account.address))
                await self._a_moment()
        return None

    async def _is_late_enough(self, times: LoginTimes, name: str) -> bool:
        try:
            if await self._settings.workers.call(times.may_log_in, name):
                return not self._lost
        except OSError as error:
            maillog.fault("looking at the time of the last log-in", error)
            return not self._lost  # the delay spares us work; it is no reason to keep anybody out
        self._release()
        if not self._lost:
            self._machine.login_refused(
                "LOGIN-DELAY",
                "You have logged in a moment ago; wait {seconds} s between log-ins",
                counts=False,
                seconds=math.ceil(times.delay),
            )
        return False

    async def _a_moment(self) -> None:
        waiting: Deferred[None] = Deferred()
        timer = self._settings.clock.callLater(AGAIN_SECONDS, self._end_pause)
        self._pause = (timer, waiting)
        await waiting

    def _end_pause(self) -> None:
        pause, self._pause = self._pause, None
        if pause is not None:
            timer, waiting = pause
            if timer.active():
                timer.cancel()
            waiting.callback(None)

    def give_way(self) -> bool:
        """See ``Occupant``."""
        idle = self._settings.clock.seconds() - self._heard
        busy = self._waiting or self._output_full or self._closing or self._machine.has_marks
        if busy or self._machine.pending_octets or idle < GIVE_WAY_SECONDS:
            return False
        self._settings.occupants.leave(self._account, self)
        self._end("Another session takes the maildrop over", "Gave way to another session", "IN-USE")
        self._release()
        return True

    # -- reading ---------------------------------------------------------------------------------

    def _retrieve(self, event: Retrieve) -> None:
        assert self._drop is not None
        if self._drop.listings[event.index].octets > self._settings.direct_octets:
            self._begin(self._retrieving(event))
            return
        try:
            pieces = on_the_wire(self._drop.read(event.index), event.lines, self._machine.is_utf8)
            chunk = next_chunk(pieces)
        except OSError as error:
            self._unreadable(error)
            return
        if len(chunk) < CHUNK_OCTETS:
            self._put(event.opening + chunk)
            self._sent(event)
            if sum(map(len, self._output)) >= CHUNK_OCTETS:
                self._flush()
        else:
            # Another program wrote a size into the name that is not the file's.
            self._begin(self._streaming(event, event.opening + chunk, pieces))

    async def _retrieving(self, event: Retrieve) -> None:
        assert self._drop is not None
        drop = self._drop
        try:
            pieces, chunk = await self._settings.workers.call(_open, drop, event, self._machine.is_utf8)
        except OSError as error:
            self._unreadable(error)
        else:
            await self._streaming(event, event.opening + chunk, pieces)

    async def _streaming(self, event: Retrieve, chunk: bytes, pieces: Iterator[bytes]) -> None:
        """Send ``chunk``, then the rest, of which one chunk is read ahead and no more."""
        while chunk and not self._lost:
            self._put(chunk)
            self._flush()
            reading = self._settings.workers.call(next_chunk, pieces)
            await self._has_room()
            try:
                chunk = await reading
            except OSError as error:
                # Too late to say so: only a broken connection tells that the message is not whole.
                maillog.fault("reading a message", error)
                self._abort("Message unreadable")
                return
        if not self._lost:
            self._sent(event)

    async def _has_room(self) -> None:
        if self._output_full and not self._lost:
            self._room = Deferred()
            await self._room

    def _found_room(self) -> None:
        room, self._room = self._room, None
        if room is not None:
            room.callback(None)

    def _sent(self, event: Retrieve) -> None:
        assert self._drop is not None
        self._machine.transmitted()
        if event.lines is None:
            self._retrieved += 1
            listing = self._drop.listings[event.index]
            self._octets += listing.octets
            if len(self._fetched) < MOST_MESSAGES:
                self._fetched.append(listing.unique_id)

    def _unreadable(self, error: OSError) -> None:
        if isinstance(error, FileNotFoundError):
            self._machine.refuse("The message is gone: another program has removed it")
        else:
            maillog.fault("reading a message", error)
            self._machine.refuse("The message cannot be read now", "SYS/TEMP")

    def _transmit(self, event: Transmit) -> None:
        self._begin(self._transmitting(event))

    async def _transmitting(self, event: Transmit) -> None:
        for piece in event.pieces:
            self._put(piece)
            self._flush()
            await self._has_room()
            if self._lost:
                return
        self._machine.transmitted()

    # -- the update ------------------------------------------------------------------------------

    def _update(self, event: Update) -> None:
        self._begin(self._updating(event))

    async def _updating(self, event: Update) -> None:
        assert self._drop is not None
        drop, self._drop = self._drop, None
        try:
            failures = await self._settings.workers.call(_remove, drop, event.marked)
        except Exception as error:
            maillog.fault("removing messages", error)
            failures = len(event.marked)
        self._deleted = len(event.marked) - failures
        self._failed = failures
        self._removed = [drop.listings[index].unique_id for index in sorted(event.marked)[:MOST_MESSAGES]]
        self._left -= self._deleted
        self._ending = "Logged out"
        if not self._lost:
            self._machine.updated(failures)


def _open(drop: IMaildrop, event: Retrieve, utf8: bool) -> tuple[Iterator[bytes], bytes]:
    pieces = on_the_wire(drop.read(event.index), event.lines, utf8)
    return pieces, next_chunk(pieces)


def _remove(drop: IMaildrop, marked: frozenset[int]) -> int:
    """Remove and unlock, before QUIT is answered: the client may be back at once."""
    try:
        for index in marked:
            drop.mark(index)
        return drop.commit()
    finally:
        drop.release()


_EVENTS: dict[type[Event], Callable[[Pop3Session, Any], None]] = {
    StartTLS: Pop3Session._start_tls,
    LogIn: Pop3Session._log_in,
    AuthBegin: Pop3Session._auth_begin,
    AuthResponse: Pop3Session._auth_response,
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
        self._offer = Pop3Offer(
            settings.hostname,
            settings.tls is not None,
            settings.allow_cleartext,
            settings.mechanisms,
            math.ceil(settings.login_times.delay) if settings.login_times else 0,
        )

    def session_for(self, host: str, port: int) -> Pop3Session:
        return Pop3Session(self, self._offer, host)
