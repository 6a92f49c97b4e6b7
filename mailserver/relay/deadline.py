"""One timer for limits that move with every reply."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall


class Deadline:
    """Calls ``expired`` when a limit has passed that nobody moved in time.

    Limits are minutes and replies come in milliseconds: moving the reactor's timer for each costs more than
    looking again, when it goes off, whether the limit is still the one it was set for.
    """

    __slots__ = ("_at", "_expired", "_looks_at", "_reactor", "_timer")

    def __init__(self, reactor: Any, expired: Callable[[], object]) -> None:
        self._reactor = reactor
        self._expired = expired
        self._at = self._looks_at = math.inf
        self._timer: IDelayedCall | None = None

    def move(self, at: float) -> None:
        """The limit is now at ``at``, by the reactor's clock."""
        self._at = at
        if at < self._looks_at:
            self._look_at(at)

    def lift(self) -> None:
        """There is no limit now."""
        self._at = math.inf

    def end(self) -> None:
        """There is none any more, and no timer; nothing leads from here to who would have been told."""
        self._at = self._looks_at = math.inf
        self._expired = _nobody
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_at(self, at: float) -> None:
        seconds = max(0.0, at - self._reactor.seconds())
        self._looks_at = at
        if self._timer is None:
            self._timer = self._reactor.callLater(seconds, self._look)
        else:
            self._timer.reset(seconds)

    def _look(self) -> None:
        self._timer = None
        self._looks_at = math.inf
        if self._at <= self._reactor.seconds():
            self._at = math.inf
            self._expired()
        elif self._at < math.inf:
            self._look_at(self._at)


def _nobody() -> None:
    """There is no limit any more."""
