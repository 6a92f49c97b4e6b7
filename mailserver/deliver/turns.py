"""Who may run now: so many at once, so many that wait, and for everybody else a later attempt."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import Deferred

T = TypeVar("T")


class Room:
    """How many deliveries may be under way or wait, whatever they wait for; so that slow ones never fill
    the lane that mailboxes use."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0

    @property
    def is_full(self) -> bool:
        return self.used >= self.most


class Turns:
    """One way out's turns. ``room`` is shared with others."""

    def __init__(self, at_once: int, waiting: int, room: Room) -> None:
        self._at_once = at_once
        self._most_waiting = waiting
        self._room = room
        self._running = 0
        self._waiting: deque[Callable[[], None]] = deque()

    def run(self, work: Callable[[], Deferred[T]]) -> Deferred[T] | None:
        """The result of ``work``, begun now or when it is its turn; ``None``: there is no room."""
        if self._room.is_full or len(self._waiting) >= self._most_waiting:
            return None
        self._room.used += 1
        result: Deferred[T] = Deferred()

        def begin() -> None:
            self._running += 1
            try:
                begun = work()
            except BaseException:
                begun = Deferred()
                begun.errback()
            begun.addBoth(self._ended).addBoth(lambda value: result.callback(value))

        if self._running < self._at_once:
            begin()
        else:
            self._waiting.append(begin)
        return result

    def _ended(self, value: T) -> T:
        self._running -= 1
        self._room.used -= 1
        if self._waiting:
            self._waiting.popleft()()
        return value
