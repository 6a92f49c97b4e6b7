"""Turns Twisted's epoll reactor without what most turns do not need: a sixth of all work on a message."""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from select import EPOLLIN
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.logger import Logger

log = Logger()

LONGEST_SECONDS = 2147483
"""How long epoll can be asked to wait: 2 ** 31 milliseconds."""


def poll_lightly(reactor: Any) -> Callable[[], None]:
    """Let ``reactor`` read from what is ready to be read without ``twisted.python.log.callWithLogger``.

    That sets a context for messages of Twisted's former log, looked up by thread, around each event; nothing
    here writes such messages.  All but a plain "ready to read" still goes the reactor's own way, and so does
    every reactor that is not Twisted's epoll reactor itself, where this does nothing.

    If it does not run yet, its main loop becomes one that looks for timers and calls from threads only when
    there are some.

    Returns what takes it back.
    """
    if type(reactor) is not EPollReactor:
        return lambda: None
    # What it uses of the reactor is private: tests/test_polling.py fails when a release changes it.
    theirs: Any = reactor
    turn = _turn_of(theirs)
    ours = {"doIteration": turn, "mainLoop": partial(_main_loop, theirs, turn)}

    def take_back() -> None:
        for name, function in ours.items():
            if theirs.__dict__.get(name) is function:
                delattr(theirs, name)

    theirs.__dict__.update(ours)
    return take_back


def _main_loop(theirs: Any, turn: Callable[[float | None], None]) -> None:
    """As ``ReactorBase.mainLoop``, but for calling ``runUntilCurrent`` where that would do nothing."""
    while theirs._started:
        seconds, run_until_current = theirs.seconds, theirs.runUntilCurrent
        try:
            while theirs._started:
                if theirs.threadCallQueue or theirs._newTimedCalls or theirs._justStopped:
                    run_until_current()
                timers, wait = theirs._pendingTimedCalls, None
                if timers:
                    wait = timers[0].time - seconds()
                    if wait <= 0:
                        run_until_current()
                        continue
                    if wait > LONGEST_SECONDS:
                        wait = LONGEST_SECONDS
                turn(wait if theirs.running and not theirs._newTimedCalls else 0)
        except BaseException:
            log.failure("unexpected error in the main loop")


def _turn_of(theirs: Any) -> Callable[[float | None], None]:
    poll, selectables, do_read_or_write = theirs._poller.poll, theirs._selectables, theirs._doReadOrWrite

    def turn(timeout: float | None) -> None:
        try:
            ready = poll(-1 if timeout is None else timeout, len(selectables))
        except OSError as error:
            if error.errno != errno.EINTR:
                raise
            return
        for fd, event in ready:
            selectable = selectables.get(fd)
            if selectable is None:
                continue  # one before it in this turn has closed it
            if event != EPOLLIN:
                do_read_or_write(selectable, fd, event)
                continue
            try:
                why = selectable.doRead()
            except BaseException as error:
                why = error
                log.failure("reading from {selectable}", selectable=selectable)
            if why:
                theirs._disconnectSelectable(selectable, why, True)

    return turn
