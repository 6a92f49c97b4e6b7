"""Group commit: when those who need a sync set out for it together, and for whom they wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

LONGEST_WAIT = 0.003
"""Seconds that a message waits at most for others to come along; a sync takes about as long."""

FRESH_SECONDS = 0.01
"""A transaction that began longer ago is a slow client's: its end may be far, and nobody waits for it."""


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
        self._now = now
        self._began: dict[object, float] = {}

    def began(self, transaction: object) -> None:
        """The client has said MAIL."""
        self._began[transaction] = self._now()

    def ended(self, transaction: object) -> None:
        """Its message is complete, or will never be. Harmless twice."""
        self._began.pop(transaction, None)

    def expects_more(self) -> bool:
        """Whether another message is likely to come in a moment: of a transaction that began one ago."""
        began, oldest = self._began, self._now() - FRESH_SECONDS
        while began:
            transaction = next(iter(began))
            if began[transaction] > oldest:
                return True
            del began[transaction]
        return False


class Departure:
    """Calls ``go`` for what has gathered in one room: at the end of the turn, or, while more is expected,
    after ``LONGEST_WAIT``.

    A sync costs the same for one as for fifty: two processes whose messages have a sync each leave a machine
    no time for anything else. Where nobody else is under way nothing waits. In the reactor's thread only.
    """

    def __init__(self, group: GroupCommit, go: Callable[[], object]) -> None:
        self._group = group
        self._go = go
        self._is_asked = self._is_full = False
        self._journey = 0
        self._timed = -1

    def gathered(self, is_full: bool = False) -> None:
        """Somebody waits; ``is_full``: as many as share a sync."""
        self._is_full = self._is_full or is_full
        if not self._is_asked:
            self._is_asked = True
            self._group.turns.soon(self._look)

    def _look(self) -> None:
        self._is_asked = False
        if self._is_full or not self._group.expects_more():
            self._leave()
        elif self._timed != self._journey:
            self._timed = self._journey
            self._group.turns.later(LONGEST_WAIT, partial(self._time_is_up, self._journey))

    def _time_is_up(self, journey: int) -> None:
        if journey == self._journey:
            self._leave()

    def _leave(self) -> None:
        self._journey += 1
        self._is_full = False
        self._go()
