"""When a recipient is tried again, when its sender is warned, and when we give up."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

_JITTER = 0.2


class RetrySchedule:
    """Intervals between attempts, in seconds; the last one repeats (RFC 5321 §4.5.4.1).

    Each is varied by ±20 %, so that messages that failed together do not come back together; the
    recipients of one message do, and share a transaction again.  ``vary`` gives numbers from 0 to
    1 and is for tests.
    """

    def __init__(
        self,
        intervals: Sequence[float],
        warn_after: float,
        give_up_after: float,
        vary: Callable[[], float] = random.random,
    ) -> None:
        if not intervals:
            raise ValueError("a retry schedule needs one interval at least")
        self._intervals = tuple(intervals)
        self._warn_after = warn_after
        self._give_up_after = give_up_after
        self._vary = vary
        self._asked: tuple[float, int, float] | None = None
        self._answer = 0.0

    def __call__(self, arrived: float, attempts: int, now: float) -> float | None:
        """When to try next after ``attempts`` of them, or ``None`` to give up.

        All in seconds since the epoch.  The last attempt is made when the time is up, never
        later, and never cut off by an interval that would lead beyond it.
        """
        end = arrived + self._give_up_after
        if now >= end:
            return None
        # Asked the same again, for the next recipient of the same attempt, it answers the same.
        if self._asked != (arrived, attempts, now):
            interval = self._intervals[min(max(attempts, 1), len(self._intervals)) - 1]
            varied = interval * (1 - _JITTER + 2 * _JITTER * self._vary())
            self._asked, self._answer = (arrived, attempts, now), min(now + varied, end)
        return self._answer

    def warn_due(self, arrived: float, now: float, warned: bool) -> bool:
        """Whether the sender of a delayed message should hear of it now, which happens once."""
        return not warned and now - arrived >= self._warn_after

    def gives_up_at(self, arrived: float) -> float:
        """When a message that arrived then is returned, in seconds since the epoch."""
        return arrived + self._give_up_after
