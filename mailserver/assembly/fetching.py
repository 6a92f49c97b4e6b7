"""Settings become what all POP3 listeners share: who has a maildrop, when somebody came last, the history."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from mailserver import maillog
from mailserver.config import Settings
from mailserver.retrieve.history import FILE_NAME, History, Visit
from mailserver.retrieve.login_times import LoginTimes
from mailserver.retrieve.occupants import Occupants
from mailserver.threads import Workers

WRITE_SECONDS = 2.0
"""How often the history is written behind; a crash forgets so much of it."""


class Fetching:
    """Making it opens nothing; ``workers`` write."""

    def __init__(self, settings: Settings, workers: Workers, clock: Any) -> None:
        delay = settings.pop3.login_delay
        self.occupants = Occupants()
        self.login_times = LoginTimes(settings.state / "pop3-logins", delay, time.time) if delay else None
        self._history = History(settings.state / FILE_NAME)
        self._workers = workers
        self._unwritten = False
        self._writing = LoopingCall(self._write_later)
        self._writing.clock = clock

    def visited(self, visit: Visit) -> None:
        """A session that fetched or deleted something is over."""
        self._unwritten = True
        self._history.add(visit)

    def open(self) -> None:
        """Begin to write behind."""
        self._writing.start(WRITE_SECONDS, now=False)

    def close(self) -> None:
        """Write what is not written yet. Call it when no session is left."""
        if self._writing.running:
            self._writing.stop()
        try:
            self._history.write()
        except (OSError, sqlite3.Error) as error:
            maillog.fault("writing the history of POP3", error)

    def _write_later(self) -> Deferred[None] | None:
        if not self._unwritten:
            return None
        self._unwritten = False
        return self._workers.call(self._history.write).addErrback(self._not_written)

    def _not_written(self, failure: Failure) -> None:
        self._unwritten = True
        maillog.fault("writing the history of POP3", failure.value)
