"""Settings become what all POP3 listeners share: who has a maildrop, when somebody came last, the history."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from mailserver import maillog
from mailserver.config import Settings
from mailserver.control import Control
from mailserver.control_client import NoServer, Refused, ask
from mailserver.listeners import Place
from mailserver.retrieve.history import FILE_NAME, History, Visit
from mailserver.retrieve.login_times import LoginTimes
from mailserver.retrieve.occupants import Occupants
from mailserver.threads import Workers

WRITE_SECONDS = 2.0
"""How often the history is written behind; a crash forgets so much of it."""


ASK_SECONDS = 1.0
"""How often other processes are asked for one maildrop, by all log-ins that wait for it."""

ANSWER_SECONDS = 2.0
"""How long one of them may take to answer."""


class Fetching:
    """Making it opens nothing; ``workers`` write.  ``place`` tells how many processes there are."""

    def __init__(self, settings: Settings, workers: Workers, clock: Any, place: Place) -> None:
        delay = settings.pop3.login_delay
        self._state = settings.state
        self._clock = clock
        self._others = [number for number in range(place.count) if number != place.number]
        self._asked: dict[str, float] = {}
        self.occupants = Occupants(self._ask_others if self._others else None)
        self.login_times = LoginTimes(settings.state / "pop3-logins", delay, time.time) if delay else None
        self._history = History(settings.state / FILE_NAME)
        self._workers = workers
        self._unwritten = False
        self._writing = LoopingCall(self._write_later)
        self._writing.clock = clock

    def answer(self, control: Control) -> None:
        """Answer other processes that want a maildrop."""
        control.answer("give-way", lambda request: self.occupants.ask_here(str(request.get("account", ""))))

    def _ask_others(self, account: str) -> None:
        now = self._clock.seconds()
        if now - self._asked.get(account, -ASK_SECONDS) < ASK_SECONDS:
            return
        if len(self._asked) > 1000:
            self._asked.clear()
        self._asked[account] = now
        self._workers.call(_ask, self._state, self._others, account).addErrback(
            lambda failure: maillog.fault("asking other processes for a maildrop", failure.value)
        )

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


def _ask(state: Path, others: Sequence[int], account: str) -> None:
    for number in others:
        # One that is not there, or is too busy, is asked again; the log-in waits for the lock alone.
        with suppress(NoServer, Refused):
            if ask(state, "give-way", number, ANSWER_SECONDS, account=account):
                return
