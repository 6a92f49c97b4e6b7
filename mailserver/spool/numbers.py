"""Numbers for entries, which never come back."""

from __future__ import annotations

import threading
from collections.abc import Callable

WORKER_BITS = 10
"""A number ends in that of the worker whose spool it is of."""


class SpoolNumbers:
    """Numbers for entries: microseconds and the worker's own, strictly increasing, below 2**63.

    A number must never come back: a mailbox file is named after it, and a second message of that
    name would be taken for a delivery that is repeated.  So a clock that goes back does not matter,
    and ``after`` is the highest number that an earlier process may have given out.
    """

    def __init__(self, worker: int, after: int, now: Callable[[], float]) -> None:
        self._worker = worker
        self._last = after >> WORKER_BITS
        self._now = now
        self._lock = threading.Lock()

    def next(self) -> int:
        """A new number."""
        with self._lock:
            self._last = max(self._last + 1, int(self._now() * 1e6))
            return self._last << WORKER_BITS | self._worker
