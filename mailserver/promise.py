"""A ``concurrent.futures.Future`` at a fraction of its cost, for results that nobody cancels."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_LOCK = threading.Lock()
"""One for all: it is held for a few assignments only, and a lock for each would cost more."""


class Promise(Future[T]):
    """Fulfilled once, by ``set_result`` or ``set_exception``, in any thread.

    The standard class makes a condition with a lock of its own for each future; three of them for
    each message were a tenth of the reactor's processor time.  Here whoever blocks in ``result``
    makes an event when it is needed.  It cannot be cancelled, and ``concurrent.futures.wait`` does
    not take it.
    """

    def __init__(self) -> None:  # not Future.__init__: its condition is what we do without
        self._fulfilled = False
        self._value: Any = None
        self._error: BaseException | None = None
        self._callbacks: list[Callable[[Future[T]], object]] = []
        self._event: threading.Event | None = None

    def set_result(self, result: T) -> None:
        """Fulfil it."""
        self._value = result
        self._fulfil()

    def set_exception(self, exception: BaseException | None) -> None:
        """Fulfil it with a failure."""
        self._error = exception
        self._fulfil()

    def _fulfil(self) -> None:
        with _LOCK:
            self._fulfilled = True
            callbacks, self._callbacks = self._callbacks, []
            event = self._event
        if event is not None:
            event.set()
        for callback in callbacks:
            try:
                callback(self)
            except Exception:  # somebody else's bug must not end the thread that fulfils
                traceback.print_exc()  # twistd has pointed stderr at its log

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Call ``fn`` with the promise: at once when it is fulfilled, or else in the fulfiller's thread."""
        with _LOCK:
            if not self._fulfilled:
                self._callbacks.append(fn)
                return
        fn(self)

    def done(self) -> bool:
        """Whether it is fulfilled."""
        return self._fulfilled

    def cancel(self) -> bool:
        """It cannot be: ``False``."""
        return False

    def cancelled(self) -> bool:
        """Never."""
        return False

    def running(self) -> bool:
        """Whether it is not fulfilled yet."""
        return not self._fulfilled

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """The failure, or ``None``; blocks. Raises ``TimeoutError`` after ``timeout`` seconds."""
        if not self._fulfilled:
            self._wait(timeout)
        return self._error

    def result(self, timeout: float | None = None) -> T:
        """The result, or raises the failure; blocks. Raises ``TimeoutError`` after ``timeout`` seconds."""
        if not self._fulfilled:
            self._wait(timeout)
        if self._error is not None:
            raise self._error
        value: T = self._value
        return value

    def _wait(self, timeout: float | None) -> None:
        with _LOCK:
            if self._fulfilled:
                return
            if self._event is None:
                self._event = threading.Event()
            event = self._event
        if not event.wait(timeout):
            raise TimeoutError
