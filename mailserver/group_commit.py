"""Group commit: when those who need a sync set out for it together, and for whom they wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

LONGEST_WAIT = 0.003
"""Seconds that a message waits at most for others to come along, however long a sync takes."""

FRESH_SECONDS = 0.01
"""A transaction that began longer ago is a slow client's: its end may be far, and nobody waits for it. Nor
for one that takes ``LEAST_SECONDS`` and four times as long as they do of late."""

LEAST_SECONDS = 0.001
"""See above: so that nobody is slow where all are quick."""


class Turns(Protocol):
    """``threads.Bridge``: runs what it is given in the reactor's thread."""

    def soon(self, call: Callable[[], object], /) -> None:
        """When this turn ends; asked in that thread."""

    def later(self, seconds: float, call: Callable[[], object], /) -> None:
        """After ``seconds``; asked in that thread."""

    def call(self, call: Callable[[], object], /) -> None:
        """Soon; asked in any thread."""


class GroupCommit:
    """The transactions under way, whose messages will want a sync in a moment, and who waits for them.

    After PostgreSQL's ``commit_siblings``. In the reactor's thread only.
    """

    def __init__(self, turns: Turns, now: Callable[[], float] = time.monotonic) -> None:
        self.turns = turns
        self.now = now
        self._began: dict[object, float] = {}
        self._departures: list[Departure] = []
        self._usual_seconds = 0.0

    def began(self, transaction: object) -> None:
        """The client has said MAIL."""
        self._began[transaction] = self.now()

    def complete(self, transaction: object) -> None:
        """Its message is there, all of it."""
        began = self._began.get(transaction)
        if began is not None:
            seconds = min(self.now() - began, 2 * FRESH_SECONDS)  # one slow client is not how they all are
            self._usual_seconds += (seconds - self._usual_seconds) / 16
        self.ended(transaction)

    def ended(self, transaction: object) -> None:
        """Its message will never be there, or is. Harmless twice."""
        self._began.pop(transaction, None)
        if not self._began:
            for departure in self._departures:
                departure.nobody_is_left()

    def departure(self, go: Callable[[], object]) -> Departure:
        """One room's."""
        made = Departure(self, go)
        self._departures.append(made)
        return made

    def expects_more(self, within: float) -> bool:
        """Whether another message is likely to be there ``within`` so many seconds: the one that was begun
        first of those that were begun a moment ago, if it takes as long as they do of late."""
        began, now = self._began, self.now()
        oldest = now - min(4 * self._usual_seconds + LEAST_SECONDS, FRESH_SECONDS)
        while began:
            transaction = next(iter(began))
            if began[transaction] > oldest:
                return began[transaction] + self._usual_seconds < now + within
            del began[transaction]
        return False


class Departure:
    """Calls ``go`` for what has gathered in one room: at the end of the turn, or, while more is expected,
    after as long as a sync takes of late, and ``LONGEST_WAIT`` at most.

    A sync costs the same for one as for fifty: two processes whose messages have a sync each leave a machine
    no time for anything else. Where nobody else is under way nothing waits. In the reactor's thread only.
    """

    def __init__(self, group: GroupCommit, go: Callable[[], object]) -> None:
        self._group = group
        self._go = go
        self._is_asked = self._is_full = False
        self._journey = 0
        self._timed = -1
        self._left_at: float | None = None
        self._sync_seconds = 0.0

    def gathered(self, is_full: bool = False) -> None:
        """Somebody waits; ``is_full``: as many as share a sync."""
        self._is_full = self._is_full or is_full
        if not self._is_asked:
            self._is_asked = True
            self._group.turns.soon(self._look)

    def nobody_is_left(self) -> None:
        """Of those who were waited for; the last may have brought nothing."""
        if self._timed == self._journey:
            self.gathered()

    def _look(self) -> None:
        self._is_asked = False
        wait = min(2 * self._sync_seconds, LONGEST_WAIT)
        if self._is_full or not self._group.expects_more(wait):
            self._leave()
        elif self._timed != self._journey:
            self._timed = self._journey
            self._group.turns.later(wait, partial(self._time_is_up, self._journey))

    def _time_is_up(self, journey: int) -> None:
        if journey == self._journey:
            self._leave()

    def _leave(self) -> None:
        self._journey += 1
        self._is_full = False
        self._left_at = self._group.now()
        self._go()

    def arrived(self) -> None:
        """The sync of those who left last has ended."""
        if self._left_at is not None:
            seconds = min(self._group.now() - self._left_at, LONGEST_WAIT)
            self._sync_seconds += (seconds - self._sync_seconds) / 4
            self._left_at = None
