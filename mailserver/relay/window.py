"""How many sessions a destination is given at once: Postfix's feedback, by connection-level experience.

Source: Postfix SCHEDULER_README and ``qmgr_queue.c``; positive and negative feedback are 1/window each, with
a hysteresis of 1.
"""

from __future__ import annotations

from dataclasses import dataclass

INITIAL = 5
"""Sessions at a destination of which nothing is known."""
LIMIT = 20
"""Sessions at any destination."""
COHORTS = 1.0
"""A whole window's worth of failures with no success between them: the destination is dead."""

_ROUNDING = 1e-9


@dataclass(slots=True)
class Window:
    """``size`` sessions at once. ``succeeded`` and ``failed`` tell how a session's opening or its life went;
    what a server says about a recipient or a message is no news of the destination."""

    initial: int = INITIAL
    limit: int = LIMIT
    size: int = 0
    success: float = 0.0
    failure: float = 0.0
    fail_cohorts: float = 0.0

    def __post_init__(self) -> None:
        self.initial = min(self.initial, self.limit)
        self.size = self.size or self.initial

    def succeeded(self, busy: int) -> None:
        """``busy`` sessions, this one included: a window that nobody fills does not grow."""
        self.fail_cohorts = 0.0
        if self.size >= self.limit or self.size >= busy + self.initial:
            return
        feedback = 1.0 / self.size
        self.success += feedback
        # Half a step of tolerance: sums of fractions fall short of 1 by rounding.
        while self.success + feedback / 2 >= 1.0:
            self.size += 1
            self.success -= 1.0
            self.failure = 0.0
        self.size = min(self.size, self.limit)

    def failed(self) -> bool:
        """Shrink at the first failure of a cohort; ``True`` when the destination is dead."""
        feedback = 1.0 / self.size
        self.fail_cohorts += feedback
        if self.fail_cohorts >= COHORTS - _ROUNDING:
            return True
        self.failure -= feedback
        while self.failure - feedback / 2 < 0.0:
            self.size -= 1
            self.failure += 1.0
            self.success = 0.0
        self.size = max(self.size, 1)
        return False

    def revive(self, busy: int) -> None:
        """It answers again: as many as are there now, and from there upwards."""
        self.size = min(max(busy, 1), self.limit)
        self.success = self.failure = self.fail_cohorts = 0.0
