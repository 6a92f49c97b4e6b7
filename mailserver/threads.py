"""The only place between threads and the reactor: futures and blocking calls become Deferreds."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

T = TypeVar("T")
P = ParamSpec("P")

_log = Logger()

SWITCH_SECONDS = 0.0005
"""How long a thread keeps the interpreter while another one wants it."""


def favour_the_reactor() -> None:
    """Let the reactor's thread have the interpreter back soon.

    It gives the interpreter away in each system call, some twelve for a message, and with Python's own 5
    ms waits so long for it again whenever a thread of ours makes records or statements meanwhile. Ten
    times as many switches cost less than that: a fifth more messages a second on a busy machine.
    """
    sys.setswitchinterval(SWITCH_SECONDS)


class WorkersStopped(Exception):
    """The call came when the pool was not running; nothing was done."""


class _Reactor(Protocol):
    def callFromThread(self, callable: Callable[[], object]) -> None: ...

    def callLater(self, delay: float, callable: Callable[[], object]) -> Any: ...


class Bridge:
    """Carries results from threads into one reactor, with one wake-up for all that are ready.

    A wake-up of the reactor costs a system call in each direction; a thread that finishes fifty
    deliveries at once pays it once.
    """

    def __init__(self, reactor: _Reactor) -> None:
        self._reactor = reactor
        self._ready: deque[tuple[Deferred[Any] | None, Any]] = deque()
        self._awake = False

    def soon(self, call: Callable[[], object]) -> None:
        """Call ``call`` when this turn of the reactor ends; in the reactor's thread."""
        self._reactor.callLater(0, call)

    def later(self, seconds: float, call: Callable[[], object]) -> None:
        """Call ``call`` after ``seconds``; in the reactor's thread."""
        self._reactor.callLater(seconds, call)

    def call(self, call: Callable[[], object]) -> None:
        """Call ``call`` in the reactor's thread, soon; in any thread.  Deferreds of ours whose futures it
        makes done fire right behind it."""
        self._add(None, call)

    def deferred(self, future: Future[T]) -> Deferred[T]:
        """A Deferred that fires in the reactor's thread with the future's result or failure.

        It never fires before this returns.  Cancelling it does not stop what is under way; the
        result is dropped.
        """
        waiting: Deferred[T] = Deferred()
        future.add_done_callback(partial(self._add, waiting))
        return waiting

    def _add(self, waiting: Deferred[Any] | None, what: Any) -> None:
        # Append first, look second: _drain lowers the flag before it counts the queue, so a
        # result that sees the flag up is always met by a drain that has not counted yet.
        self._ready.append((waiting, what))
        if not self._awake:
            self._awake = True
            self._reactor.callFromThread(self._drain)

    def _drain(self) -> None:
        self._awake = False
        ready = self._ready
        # What becomes ready meanwhile has woken the reactor again: sockets get their turn first.
        left = len(ready)
        while left:
            waiting, what = ready.popleft()
            left -= 1
            try:
                if waiting is None:
                    self._awake = True  # what it makes ready needs no wake-up: we are here
                    what()
                else:
                    _fire(waiting, what)
            except Exception:  # a bug, and no reason to keep the others waiting for ever
                _log.failure("firing a Deferred from a thread's result")
            if waiting is None:
                self._awake = False
                left = len(ready)


def _fire(waiting: Deferred[T], future: Future[T]) -> None:
    if future.cancelled():
        waiting.cancel()
        return
    error = future.exception()
    if error is None:
        waiting.callback(future.result())
    else:
        waiting.errback(Failure(error))


class Workers:
    """A small pool of named threads for calls that block: password hashes, opening a maildrop."""

    def __init__(self, bridge: Bridge, name: str, size: int) -> None:
        self._bridge = bridge
        self._pool = ThreadPool(0, size, name)

    def start(self) -> None:
        """Begin to serve; threads are made as they are needed."""
        self._pool.start()

    def stop(self) -> None:
        """Wait for the calls under way and those that wait for a thread, then end the threads.

        Harmless when they were never started.
        """
        if self._pool.started:
            self._pool.stop()

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Deferred[T]:
        """Run ``function`` in a thread of the pool; its result or exception fires the Deferred.

        Fails with ``WorkersStopped`` before ``start`` and after ``stop``, where the call would
        otherwise wait for ever.
        """
        future: Future[T] = Future()
        # A failure knows the frames of the thread that it was raised in: were the future in one of them, the
        # two would be a ring, with all that the call was about in it.
        held = [future]

        def work() -> None:
            future = held.pop()
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)
            finally:
                del future

        result = self._bridge.deferred(future)
        if self._pool.started and not self._pool.joined:
            self._pool.callInThread(work)
        else:
            future.set_exception(WorkersStopped(f"{self._pool.name} does not run"))
        return result
