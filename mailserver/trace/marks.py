"""Short ids: what a refusal carries in its text, and how an id tells when it was made."""

from __future__ import annotations

import time
from collections.abc import Callable

from mailserver.values.envelope import entry_number, queue_id
from mailserver.values.reply import Reply, marked

_BEGINNING = 1_767_225_600  # 2026-01-01: ids stay short because they count from here
_WORKERS = 64
_LONGEST_LINE = 400
_OF_A_QUEUE = 1 << 55
"""Queue ids are microseconds since 1970 shifted by ten bits, so they are far above every mark."""


class Marks:
    """Gives out marks: milliseconds and the worker's number, strictly increasing."""

    def __init__(self, worker: int, now: Callable[[], float] = time.time) -> None:
        self._worker = worker % _WORKERS
        self._now = now
        self._last = 0

    def next(self) -> str:
        """A mark that nobody else gets."""
        self._last = max(self._last + 1, int((self._now() - _BEGINNING) * 1000))
        return queue_id(self._last * _WORKERS + self._worker)

    def put_on(self, reply: Reply) -> Reply:
        """``reply`` with a mark at its end, where people quote it."""
        return marked(reply, self.next(), _LONGEST_LINE)


def made_at(text: str) -> float | None:
    """When a queue id or a mark was made, in seconds since the epoch; ``None`` for what is neither."""
    try:
        number = entry_number(text)
    except ValueError:
        return None
    if number >= _OF_A_QUEUE:
        return (number >> 10) / 1e6
    return number / _WORKERS / 1000 + _BEGINNING
