"""From addresses to one open session: who is tried first, who races whom, when clear beats TLS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from mailserver.interfaces import Exchange
from mailserver.relay.memory import HostMemory
from mailserver.relay.opening import open_session
from mailserver.relay.protection import OPPORTUNISTIC, Level, Security
from mailserver.relay.sessions import Manner, Target
from mailserver.relay.smtp import SMTPSession
from mailserver.relay.tls import ClientTLS
from mailserver.wire.client_events import SessionEnded, Stage

HEAD_START = 0.25
"""Seconds that a connection is tried before the next address joins (RFC 8305 §5)."""

Watcher = Callable[[SMTPSession], None]
"""Told of every session when it is open, or when it is not going to be."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One address, and what is demanded of a session there."""

    target: Target
    security: Security = OPPORTUNISTIC


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of one candidate: the session when it is open; why not, when not. ``session`` also stands
    beside ``ended`` when there was a connection to tell of; ``avoided``: nothing was tried."""

    candidate: Candidate
    session: SMTPSession | None = None
    ended: SessionEnded | None = None
    avoided: bool = False


def in_order(exchanges: Sequence[Exchange], securities: Sequence[Security], attempts: int) -> list[Candidate]:
    """Every address, exchange after exchange; within one the families take turns, and which of them
    begins changes from attempt to attempt (RFC 8305 §4; IPv6 begins)."""
    found: list[Candidate] = []
    for number, exchange in enumerate(exchanges):
        security = securities[number] if securities else OPPORTUNISTIC
        if len(exchange.addresses) == 1:
            addresses: Sequence[str] = exchange.addresses
        else:
            v4 = [address for address in exchange.addresses if ":" not in address]
            v6 = [address for address in exchange.addresses if ":" in address]
            addresses = _in_turns(*((v6, v4) if attempts % 2 == 0 else (v4, v6)))
        found += [Candidate(Target(exchange.name, a, exchange.port), security) for a in addresses]
    return found


def _in_turns(first: Sequence[str], second: Sequence[str]) -> list[str]:
    turns: list[str] = []
    for index in range(max(len(first), len(second))):
        turns += [*first[index : index + 1], *second[index : index + 1]]
    return turns


class Dialler:
    """Opens sessions, and remembers whom there is no point in trying now."""

    def __init__(self, reactor: Any, tls: ClientTLS, memory: HostMemory) -> None:
        self._reactor = reactor
        self._tls = tls
        self.memory = memory
        self.sessions: set[SMTPSession] = set()
        """Every connection that is open or being opened."""
        self.is_closing = False
        """The server is stopping: what fails now is not tried again another way."""

    async def open(
        self,
        candidate: Candidate,
        rival: Candidate | None,
        manner: Callable[[str], Manner],
        watcher: Watcher | None = None,
    ) -> list[Tried]:
        """Open a session with ``candidate``, or with ``rival`` if that is connected first; what came of each
        that was tried. The last one is open if any is. ``manner`` is asked with an address."""
        if refused := candidate.security.refused:
            ended = SessionEnded(Stage.CONNECT, refused, status=candidate.security.status)
            return [Tried(candidate, None, ended, avoided=True)]
        if reason := self.memory.reason_to_avoid(candidate.target):
            ended = SessionEnded(Stage.CONNECT, f"{reason} (a short time ago)")
            return [Tried(candidate, None, ended, avoided=True)]
        if rival is not None and (rival.security.refused or self.memory.reason_to_avoid(rival.target)):
            rival = None
        race = _Race(self._reactor, lambda one: self._session(one, manner), candidate, rival)
        results = await race.over
        return [await self._outcome(one, session, manner, watcher) for one, session in results]

    def forget(self, session: SMTPSession) -> None:
        """It is closed."""
        self.sessions.discard(session)

    def _session(
        self, candidate: Candidate, manner: Callable[[str], Manner], in_clear: bool = False
    ) -> SMTPSession:
        security, target = candidate.security, candidate.target
        uses_tls = security.level is not Level.CLEAR and not in_clear
        if uses_tls and security.level is Level.OPPORTUNISTIC and not security.watched:
            uses_tls = not self.memory.tls_fails(target)
        tls = self._tls if uses_tls else None
        session = open_session(self._reactor, manner(target.address), target, tls, security)
        self.sessions.add(session)
        session.gone.addCallback(lambda _: self.forget(session))
        return session

    async def _outcome(
        self,
        candidate: Candidate,
        session: SMTPSession,
        manner: Callable[[str], Manner],
        watcher: Watcher | None,
    ) -> Tried:
        opened = await session.opened
        if isinstance(opened, SessionEnded) and not self.is_closing and _broke_resuming(session, opened):
            # Some hosts stumble over their own tickets: before anything else is concluded, once more in full.
            session = self._session(candidate, manner)
            opened = await session.opened
        if watcher is not None:
            watcher(session)
        if (
            isinstance(opened, SessionEnded)
            and not self.is_closing
            and _is_worth_clear(candidate.security, opened)
        ):
            # Opportunistic: better in clear than not at all (RFC 7435 §3).
            self.memory.tls_failed(candidate.target)
            session = self._session(candidate, manner, in_clear=True)
            opened = await session.opened
        if isinstance(opened, SessionEnded):
            is_421 = opened.reply is not None and opened.reply.code == 421
            if not (is_421 or _is_about_demands(candidate.security, opened)):
                # 421 speaks of the moment, and often of us: the destination's window learns from it.
                seconds = self._reactor.seconds() - session.started
                self.memory.failed(candidate.target, seconds, opened.reason)
            return Tried(candidate, session, opened)
        self.memory.worked(candidate.target)
        return Tried(candidate, session)


def _broke_resuming(session: SMTPSession, ended: SessionEnded) -> bool:
    handshake = session.handshake
    return ended.stage is Stage.HANDSHAKE and handshake is not None and handshake.give_up_resuming()


def _is_worth_clear(security: Security, ended: SessionEnded) -> bool:
    optional = security.level is Level.OPPORTUNISTIC and not (security.implicit or security.require_tls)
    return optional and ended.stage is Stage.HANDSHAKE


def _is_about_demands(security: Security, ended: SessionEnded) -> bool:
    """Whether the address is not to blame: other domains there may demand nothing, or something else."""
    return security.level >= Level.ENCRYPTED and ended.stage in (Stage.STARTTLS, Stage.HANDSHAKE)


class _Race:
    """One connection with a head start, a second that joins it, and the first of them that is made."""

    def __init__(
        self,
        reactor: Any,
        begin: Callable[[Candidate], SMTPSession],
        first: Candidate,
        second: Candidate | None,
    ) -> None:
        self.over: Deferred[list[tuple[Candidate, SMTPSession]]] = Deferred()
        """Who failed, then who won; only the last can be open."""
        self._begin = begin
        self._second = second
        self._running: dict[SMTPSession, Candidate] = {}
        self._failed: list[tuple[Candidate, SMTPSession]] = []
        self._alarm: IDelayedCall | None = None
        if second is not None:
            self._alarm = reactor.callLater(HEAD_START, self._join)
        self._start(first)

    def _start(self, candidate: Candidate) -> None:
        session = self._begin(candidate)
        self._running[session] = candidate
        session.when_connected = self._won
        session.gone.addCallback(lambda _: self._lost(session))

    def _join(self) -> None:
        self._alarm = None
        assert self._second is not None
        self._start(self._second)

    def _won(self, session: SMTPSession) -> None:
        self._stop_alarm()
        winner = self._running.pop(session)
        losers = list(self._running)
        self._running.clear()  # they have not failed, they were not needed
        session.when_connected = None  # nothing leads from a session back to itself: it goes when it ends
        for other in losers:
            other.when_connected = None
            other.abort()
        self.over.callback([*self._failed, (winner, session)])

    def _lost(self, session: SMTPSession) -> None:
        candidate = self._running.pop(session, None)
        if candidate is None or self.over.called:
            return
        self._failed.append((candidate, session))
        if not self._running:
            self._stop_alarm()
            self.over.callback(self._failed)

    def _stop_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
