"""Runs a coroutine of the server's own parts in a reactor of this command."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.python.failure import Failure


def in_reactor(work: Callable[[Any], Awaitable[Any]]) -> Any:
    """What ``work(reactor)`` comes to; its exception is raised. Once in a process."""
    from twisted.internet import reactor as installed

    reactor: Any = installed
    results: list[Any] = []

    def begin() -> None:
        running: Any = work(reactor)
        done: Deferred[Any] = ensureDeferred(running)
        done.addBoth(results.append)
        done.addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(begin)
    reactor.run()
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]
