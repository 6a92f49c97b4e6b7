"""A reactor that turns when it is told to, for what shares its turns and its syncs."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any

SOON = 10.0


class Turns:
    """In the place of ``threads.Bridge``."""

    def __init__(self) -> None:
        self.ends: list[Callable[[], object]] = []
        self.timers: list[tuple[float, Callable[[], object]]] = []
        self.calls: SimpleQueue[Callable[[], object]] = SimpleQueue()

    def soon(self, call: Callable[[], object]) -> None:
        self.ends.append(call)

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        self.timers.append((seconds, call))

    def call(self, call: Callable[[], object]) -> None:
        self.calls.put(call)

    def end(self) -> None:
        """Let the turn end."""
        ends, self.ends = self.ends, []
        for call in ends:
            call()

    def wait(self) -> None:
        """Let the time of all timers come."""
        timers, self.timers = self.timers, []
        for _, call in timers:
            call()

    def until(self, *futures: Future[Any]) -> None:
        """Turn until all are done, or for a while."""
        end = time.monotonic() + SOON
        while not all(future.done() for future in futures) and time.monotonic() < end:
            self.end()
            try:
                self.calls.get(timeout=0.01)()
            except Empty:
                pass
