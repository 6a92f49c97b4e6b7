"""Manners towards each destination: how many sessions at once, which stay open, who is dead now."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from mailserver.relay.smtp import SMTPSession, Target

CONCURRENCY = 20
"""Sessions at one destination."""
TOTAL = 500
"""Sessions in all; each is a file descriptor."""
IDLE_SECONDS = 2.0
"""How long an open session waits for another message."""
SESSION_SECONDS = 300.0
"""How long a session is reused; by time and not by count, or the slowest host draws all mail."""
PARKED = 200
"""Idle sessions in all."""

SLOW_SECONDS = 5.0
"""A failure that took this long is worth remembering; one that came at once costs nothing to repeat."""
SLOW_PAUSE, LONGEST_PAUSE = 60.0, 600.0
"""After a slow failure the host is left alone so long, doubled each time, up to the second."""
QUICK_PAUSE = 1.0
CLEAR_SECONDS = 600.0
"""How long a host that could not do TLS is spoken to in clear at once."""
REMEMBERED_HOSTS = 10_000

Key = tuple[tuple[str, int], ...]
"""A destination: the names and ports of its mail exchanges, in alphabetical order. Domains that
share their exchanges share a destination."""


@dataclass(slots=True)
class _Destination:
    busy: int = 0
    waiting: deque[Deferred[None]] = field(default_factory=deque)
    parked: list[tuple[SMTPSession, float]] = field(default_factory=list)
    queued: bool = False
    """Whether it stands in the line for one of the places that all share."""


class Destinations:
    """Places at destinations. Each destination has its own line; who waits for a place among all
    is served in turn, one from each destination, so that no big one starves a small one."""

    def __init__(self, reactor: Any, concurrency: int = CONCURRENCY, total: int = TOTAL) -> None:
        self._reactor = reactor
        self._concurrency = concurrency
        self._total = total
        self._busy = 0
        self._known: dict[Key, _Destination] = {}
        self._line: deque[Key] = deque()
        self._serving = False
        self._parked = 0
        self._sweeping: IDelayedCall | None = None
        self._empty: Deferred[None] | None = None

    @property
    def busy(self) -> int:
        """Places taken, at all destinations."""
        return self._busy

    def enter(self, key: Key) -> Deferred[None] | None:
        """Take a place: ``None`` at once, or a Deferred that fires when there is one."""
        destination = self._known.get(key)
        if destination is None:
            destination = self._known[key] = _Destination()
        if self._busy < self._total and destination.busy < self._concurrency and not destination.waiting:
            destination.busy += 1
            self._busy += 1
            return None
        waiting: Deferred[None] = Deferred()
        destination.waiting.append(waiting)
        self._queue(key, destination)
        return waiting

    def leave(self, key: Key) -> None:
        """Give a place back; the next in line gets it."""
        destination = self._known[key]
        destination.busy -= 1
        self._busy -= 1
        self._queue(key, destination)
        self._forget_unused(key, destination)
        if self._serving:
            # Who was served has left again already; the loop below goes on, without deeper calls.
            return
        self._serving = True
        while self._line and self._busy < self._total:
            self._serve(self._line.popleft())
        self._serving = False
        if self._busy == 0 and self._empty is not None:
            empty, self._empty = self._empty, None
            empty.callback(None)

    def when_empty(self) -> Deferred[None] | None:
        """Fires when nobody has a place; ``None`` when that is so now."""
        if self._busy == 0:
            return None
        self._empty = Deferred()
        return self._empty

    def _queue(self, key: Key, destination: _Destination) -> None:
        if destination.waiting and not destination.queued and destination.busy < self._concurrency:
            destination.queued = True
            self._line.append(key)

    def _serve(self, key: Key) -> None:
        destination = self._known[key]
        destination.queued = False
        if not destination.waiting:
            return
        waiting = destination.waiting.popleft()
        destination.busy += 1
        self._busy += 1
        self._queue(key, destination)
        waiting.callback(None)

    def _forget_unused(self, key: Key, destination: _Destination) -> None:
        if not (destination.busy or destination.waiting or destination.parked):
            self._known.pop(key, None)

    # Open sessions -------------------------------------------------------------------------------

    def take(self, key: Key) -> SMTPSession | None:
        """An open session to this destination, the one used last; ``None`` when there is none."""
        destination = self._known.get(key)
        while destination is not None and destination.parked:
            session, _ = destination.parked.pop()
            self._parked -= 1
            if session.usable:
                return session
        return None

    def park(self, key: Key, session: SMTPSession) -> None:
        """Keep a session for the next message, unless it has served long enough. Before ``leave``."""
        now = self._reactor.seconds()
        if not session.usable or now - session.started > SESSION_SECONDS or self._parked >= PARKED:
            session.close()
            return
        self._known[key].parked.append((session, now))
        self._parked += 1
        if self._sweeping is None:
            self._sweeping = self._reactor.callLater(IDLE_SECONDS, self._sweep)

    def close_parked(self) -> None:
        """Say goodbye wherever nothing is under way."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        self._close_older(math.inf)

    def _sweep(self) -> None:
        self._sweeping = None
        self._close_older(self._reactor.seconds() - IDLE_SECONDS)
        if self._parked:
            self._sweeping = self._reactor.callLater(IDLE_SECONDS / 2, self._sweep)

    def _close_older(self, since: float) -> None:
        for key, destination in list(self._known.items()):
            if not destination.parked:
                continue
            closing = [session for session, at in destination.parked if at <= since]
            destination.parked = [(session, at) for session, at in destination.parked if at > since]
            self._parked -= len(closing)
            for session in closing:
                session.close()
            self._forget_unused(key, destination)


@dataclass(slots=True)
class _Memory:
    until: float = -math.inf
    pause: float = 0.0
    reason: str = ""
    clear_until: float = 0.0


class HostMemory:
    """What has just been learnt about single addresses, so that a thousand messages do not each
    wait for the same dead host."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._hosts: OrderedDict[tuple[str, int], _Memory] = OrderedDict()

    def reason_to_avoid(self, target: Target) -> str:
        """Why the target is left alone now; ``""`` when it is not."""
        known = self._hosts.get((target.address, target.port))
        return known.reason if known is not None and self._reactor.seconds() < known.until else ""

    def failed(self, target: Target, seconds: float, reason: str) -> None:
        """No session could be opened, and to learn that took ``seconds``."""
        memory = self._memory(target)
        now = self._reactor.seconds()
        memory.reason = reason
        if seconds < SLOW_SECONDS:
            memory.until = max(memory.until, now + QUICK_PAUSE)
        elif memory.until <= now - seconds:
            # Not one of a cohort that all began before the first of them failed.
            memory.pause = min(max(SLOW_PAUSE, 2 * memory.pause), LONGEST_PAUSE)
            memory.until = now + memory.pause

    def worked(self, target: Target) -> None:
        """A session was opened."""
        known = self._hosts.get((target.address, target.port))
        if known is not None:
            known.until, known.pause = -math.inf, 0.0

    def tls_failed(self, target: Target) -> None:
        """The target announces STARTTLS and cannot do it."""
        self._memory(target).clear_until = self._reactor.seconds() + CLEAR_SECONDS

    def tls_fails(self, target: Target) -> bool:
        """Whether that was so a short time ago."""
        known = self._hosts.get((target.address, target.port))
        return known is not None and self._reactor.seconds() < known.clear_until

    def _memory(self, target: Target) -> _Memory:
        key = (target.address, target.port)
        memory = self._hosts.setdefault(key, _Memory())
        self._hosts.move_to_end(key)
        if len(self._hosts) > REMEMBERED_HOSTS:
            self._hosts.popitem(last=False)
        return memory
