"""Manners towards each destination: how many sessions at once, how often, and whether it is dead now."""

from __future__ import annotations

import math
import random
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from mailserver.relay.memory import varied
from mailserver.relay.protection import Security
from mailserver.relay.smtp import SMTPSession
from mailserver.relay.window import INITIAL, LIMIT, Window
from mailserver.values.outcome import SERVER_STOPS

TOTAL = 500
"""Sessions in all; each is a file descriptor."""
IDLE_SECONDS = 2.0
"""How long an open session waits for another message."""
PROBE_SECONDS = 0.5
"""After so long idle a session is asked by RSET, in one write with MAIL where it may, whether it still is
what it was. One that was busy this moment has just answered."""
SESSION_SECONDS = 300.0
"""How long a session is reused; by time and not by count, or the slowest host draws all mail."""
KEPT = 500
"""Sessions in all, those that are busy included, beyond which none is kept open."""
DEAD_SECONDS, LONGEST_DEAD = 300.0, 3600.0
"""How long a dead destination is left alone, doubled by each probe that fails, up to the second."""
REMEMBERED = 10_000
"""Destinations whose window is remembered while nobody sends there."""


class Key(NamedTuple):
    """A destination: the names and ports of its mail exchanges, in alphabetical order, so that domains
    which share their exchanges share a destination; and what sessions to it must have in common:
    ``way`` names the route (credentials, source), ``security`` what is demanded of TLS."""

    hosts: tuple[tuple[str, int], ...]
    way: str = ""
    security: tuple[Security, ...] = ()


class News(Enum):
    """What a visit taught about the destination itself."""

    GOOD = "it answered"
    BAD = "no connection, a session cut, or a refusal for now that is not about a recipient"
    NONE = "nothing"


@dataclass(frozen=True, slots=True)
class Pace:
    """Limits of one destination: sessions at once, and transactions a minute (0: as many as may be)."""

    concurrency: int = LIMIT
    per_minute: float = 0.0


class InLine(Deferred[str]):
    """Somebody who waits for a place, and what for: ``errand`` tells those who could take it along."""

    def __init__(self, errand: object = None) -> None:
        super().__init__()
        self.errand = errand


@dataclass(slots=True)
class _Destination:
    window: Window
    spacing: float
    busy: int = 0
    waiting: deque[InLine] = field(default_factory=deque)
    crowded: deque[InLine] = field(default_factory=deque)
    """Who was turned away because others of ours were there, and comes again when one of them leaves."""
    parked: list[tuple[SMTPSession, float]] = field(default_factory=list)
    queued: bool = False
    """Whether it stands in the line for one of the places that all share."""
    dead: str = ""
    """Why nobody is let in but, from time to time, a probe."""
    until: float = 0.0
    pause: float = 0.0
    next_entry: float = 0.0
    alarm: IDelayedCall | None = None

    @property
    def places(self) -> int:
        if self.crowded:
            return 0  # it is full; whoever leaves makes room for one of those who know
        return 1 if self.dead else self.window.size

    @property
    def is_unused(self) -> bool:
        return not (self.busy or self.waiting or self.crowded or self.parked or self.alarm)


class Destinations:
    """Places at destinations. Each destination has its own line and its own window; who waits for a place
    among all is served in turn, one from each destination, so that no big one starves a small one."""

    def __init__(
        self,
        reactor: Any,
        pace: Pace | None = None,
        total: int = TOTAL,
        initial: int = INITIAL,
        vary: Callable[[], float] = random.random,
    ) -> None:
        """``pace`` holds where ``enter`` is given none; ``vary`` gives numbers from 0 to 1."""
        self._reactor = reactor
        self._pace = pace or Pace()
        self._total = total
        self._initial = initial
        self._vary = vary
        self._busy = 0
        self._known: OrderedDict[Key, _Destination] = OrderedDict()
        self._line: deque[Key] = deque()
        self._serving = False
        self._parked = 0
        self._sweeping: IDelayedCall | None = None
        self._empty: Deferred[None] | None = None

    @property
    def busy(self) -> int:
        """Places taken, at all destinations."""
        return self._busy

    def busy_at(self, key: Key) -> int:
        """Places taken at one destination."""
        known = self._known.get(key)
        return known.busy if known is not None else 0

    def enter(self, key: Key, pace: Pace | None = None, errand: object = None) -> InLine | str:
        """Take a place: ``""`` when it is taken, a reason when the destination is dead and nobody may; or a
        Deferred that fires with one of these."""
        destination = self._known.get(key)
        if destination is None:
            destination = self._make(key, pace or self._pace)
        now = self._reactor.seconds()
        if destination.dead and now < destination.until:
            return destination.dead
        if (
            not destination.waiting
            and destination.busy < destination.places
            and self._busy < self._total
            and now >= destination.next_entry
        ):
            self._admit(destination, now)
            return ""
        waiting = InLine(errand)
        destination.waiting.append(waiting)
        self._queue(key, destination)
        return waiting

    def enter_after_another(self, key: Key) -> InLine | str:
        """Like ``enter``, but not before somebody who is there now has left."""
        destination = self._known.get(key)
        if destination is None or not destination.busy:
            return self.enter(key)
        waiting = InLine()
        destination.crowded.append(waiting)
        return waiting

    # Taking over a place ---------------------------------------------------------------------------

    def next_in_line(self, key: Key) -> InLine | None:
        """Who may have the place of somebody who is there, as soon as that one is done; ``None`` where a free
        place must go another way: to a destination that waits for one of all, to those who know that it is
        full, to nobody for a while."""
        destination = self._known[key]
        if not destination.waiting or self._line or destination.spacing or destination.dead:
            return None
        return destination.waiting[0] if destination.busy <= destination.places else None

    def take_along(self, key: Key) -> None:
        """The next in line goes with somebody there; then ``hand_over``, ``step_in`` or ``send_back``."""
        self._known[key].waiting.popleft()

    def hand_over(self, key: Key, news: News) -> None:
        """As ``leave``, but the place is now that of who went along."""
        destination = self._known[key]
        self._learn(destination, news, "")
        self._queue(key, destination)  # the window may have grown
        self._serve_all()

    def step_in(self, key: Key) -> None:
        """Who went along has a place of its own now, for the one before may need its own for a while."""
        self._admit(self._known[key], self._reactor.seconds())

    def send_back(self, key: Key, waiting: InLine) -> None:
        """Nothing came of it: who went along is the next in line again."""
        destination = self._known[key]
        destination.waiting.appendleft(waiting)
        self._queue(key, destination)
        self._serve_all()

    # -------------------------------------------------------------------------------------------------

    def leave(self, key: Key, news: News = News.NONE, reason: str = "") -> None:
        """Give a place back, and tell what was met there; the next in line gets it."""
        destination = self._known[key]
        self._learn(destination, news, reason)
        destination.busy -= 1
        self._busy -= 1
        self._call_crowded(destination, news)
        self._queue(key, destination)
        self._serve_all()
        if destination.dead and self._reactor.seconds() < destination.until:
            self._turn_away(destination)
        if self._busy == 0 and self._empty is not None:
            empty, self._empty = self._empty, None
            empty.callback(None)

    def _call_crowded(self, destination: _Destination, news: News) -> None:
        """One place is free: one of those who found none there may have it."""
        if not destination.crowded:
            return
        if not destination.busy:
            destination.waiting.extendleft(reversed(destination.crowded))
            destination.crowded.clear()
        elif news is not News.BAD and self._busy < self._total:
            waiting = destination.crowded.popleft()
            self._admit(destination, self._reactor.seconds())
            waiting.callback("")

    def when_empty(self) -> Deferred[None] | None:
        """Fires when nobody has a place; ``None`` when that is so now."""
        if self._busy == 0:
            return None
        self._empty = Deferred()
        return self._empty

    def describe(self, key: Key) -> dict[str, Any] | None:
        """What is known of a destination, for the operator; ``None`` when nothing is."""
        known = self._known.get(key)
        if known is None:
            return None
        now = self._reactor.seconds()
        return {
            "hosts": [f"{host}:{port}" for host, port in key.hosts],
            "way": key.way,
            "security": [" ".join((s.level.name.lower(), s.by)).strip() for s in key.security],
            "window": known.window.size,
            "limit": known.window.limit,
            "busy": known.busy,
            "waiting": len(known.waiting) + len(known.crowded),
            "open": len(known.parked),
            "dead": known.dead,
            "probe_in": round(max(0.0, known.until - now), 1) if known.dead else None,
            "seconds_between": known.spacing,
        }

    def forgive(self, key: Key) -> bool:
        """Let a destination that is dead be tried at once, for an operator says so; whether it was dead."""
        known = self._known.get(key)
        if known is None or not known.dead:
            return False
        known.dead, known.pause, known.until = "", 0.0, 0.0
        known.window.revive(known.busy)
        self._queue(key, known)
        self._serve_all()
        return True

    def keys(self) -> list[Key]:
        """Every destination that is remembered."""
        return list(self._known)

    # Learning --------------------------------------------------------------------------------------

    def _learn(self, destination: _Destination, news: News, reason: str) -> None:
        if news is News.GOOD:
            if destination.dead:
                destination.dead, destination.pause = "", 0.0
                destination.window.revive(destination.busy)
            else:
                destination.window.succeeded(destination.busy)
        elif news is News.BAD:
            self._met_trouble(destination, reason)

    def _met_trouble(self, destination: _Destination, reason: str) -> None:
        now = self._reactor.seconds()
        if destination.dead and now < destination.until:
            return  # one of the cohort that began before it was known
        if destination.dead or destination.window.failed():
            destination.pause = min(max(DEAD_SECONDS, 2 * destination.pause), LONGEST_DEAD)
            destination.until = now + varied(destination.pause, self._vary)
            destination.dead = reason or "no session could be opened"

    def _turn_away(self, destination: _Destination) -> None:
        """Whoever waits for a dead destination is told, and makes no attempt."""
        turned = [*destination.waiting, *destination.crowded]
        destination.waiting.clear()
        destination.crowded.clear()
        for waiting in turned:
            waiting.callback(destination.dead)

    # Lines -----------------------------------------------------------------------------------------

    def _make(self, key: Key, pace: Pace) -> _Destination:
        window = Window(min(self._initial, pace.concurrency), pace.concurrency)
        destination = _Destination(window, 60.0 / pace.per_minute if pace.per_minute else 0.0)
        self._known[key] = destination
        if len(self._known) > REMEMBERED:
            self._forget_one()
        return destination

    def _forget_one(self) -> None:
        for key, destination in self._known.items():
            if destination.is_unused:
                del self._known[key]
                return

    def _admit(self, destination: _Destination, now: float) -> None:
        destination.busy += 1
        self._busy += 1
        if destination.spacing:
            destination.next_entry = now + varied(destination.spacing, self._vary)

    def _queue(self, key: Key, destination: _Destination) -> None:
        """Stand in the line of all, if somebody waits and may go."""
        if destination.queued or not destination.waiting or destination.busy >= destination.places:
            return
        early = destination.next_entry - self._reactor.seconds() if destination.spacing else 0.0
        if early > 0.0:
            if destination.alarm is None:
                destination.alarm = self._reactor.callLater(early, self._wake, key, destination)
            return
        destination.queued = True
        self._line.append(key)

    def _wake(self, key: Key, destination: _Destination) -> None:
        destination.alarm = None
        self._queue(key, destination)
        self._serve_all()

    def _serve_all(self) -> None:
        if self._serving:
            # Who was served has left again already; the loop goes on, without deeper calls.
            return
        self._serving = True
        while self._line and self._busy < self._total:
            self._serve(self._line.popleft())
        self._serving = False

    def _serve(self, key: Key) -> None:
        destination = self._known[key]
        destination.queued = False
        if not destination.waiting or destination.busy >= destination.places:
            return
        now = self._reactor.seconds()
        if destination.dead and now < destination.until:
            return  # ``leave`` turns them away
        waiting = destination.waiting.popleft()
        self._admit(destination, now)
        self._queue(key, destination)
        waiting.callback("")

    # Open sessions -------------------------------------------------------------------------------

    def take(self, key: Key) -> SMTPSession | None:
        """An open session to this destination, the one used last; ``None`` when there is none."""
        destination = self._known.get(key)
        while destination is not None and destination.parked:
            session, since = destination.parked.pop()
            self._parked -= 1
            if session.usable:
                if self._reactor.seconds() - since >= PROBE_SECONDS:
                    session.reset_first()
                return session
        return None

    def park(self, key: Key, session: SMTPSession) -> None:
        """Keep a session for the next message, unless it has served long enough, or there are more open than
        the destination now has places. Before ``leave``."""
        now = self._reactor.seconds()
        destination = self._known[key]
        most = 1 if destination.dead else destination.window.size
        too_many = destination.busy + len(destination.parked) > most
        old = now - session.started > SESSION_SECONDS
        if not session.usable or old or too_many or self._busy + self._parked > KEPT:
            session.close()
            return
        destination.parked.append((session, now))
        self._parked += 1
        if self._sweeping is None:
            self._sweeping = self._reactor.callLater(IDLE_SECONDS, self._sweep)

    def close(self) -> None:
        """Say goodbye wherever nothing is under way, and set no more alarms off."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            self._sweeping = None
        self._close_older(math.inf)
        for destination in self._known.values():
            if destination.alarm is not None:
                destination.alarm.cancel()
                destination.alarm = None
                destination.dead = destination.dead or SERVER_STOPS
                self._turn_away(destination)

    def _sweep(self) -> None:
        self._sweeping = None
        self._close_older(self._reactor.seconds() - IDLE_SECONDS)
        if self._parked:
            self._sweeping = self._reactor.callLater(IDLE_SECONDS / 2, self._sweep)

    def _close_older(self, since: float) -> None:
        for destination in list(self._known.values()):
            if not destination.parked:
                continue
            closing = [session for session, at in destination.parked if at <= since]
            destination.parked = [(session, at) for session, at in destination.parked if at > since]
            self._parked -= len(closing)
            for session in closing:
                session.close()
