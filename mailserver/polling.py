"""Turns Twisted's epoll reactor without a log context for each event: a tenth of all work on a message."""

from __future__ import annotations

import errno
from collections.abc import Callable
from select import EPOLLIN
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.logger import Logger

log = Logger()


def poll_lightly(reactor: Any) -> Callable[[], None]:
    """Let ``reactor`` read from what is ready to be read without ``twisted.python.log.callWithLogger``.

    That sets a context for messages of Twisted's former log, looked up by thread, around each event; nothing
    here writes such messages.  All but a plain "ready to read" still goes the reactor's own way, and so does
    every reactor that is not Twisted's epoll reactor itself, where this does nothing.

    Returns what takes it back.
    """
    if type(reactor) is not EPollReactor:
        return lambda: None
    # What it uses of the reactor is private: tests/test_polling.py fails when a release changes it.
    theirs: Any = reactor
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

    def take_back() -> None:
        if theirs.__dict__.get("doIteration") is turn:
            del theirs.doIteration

    theirs.doIteration = turn
    return take_back
