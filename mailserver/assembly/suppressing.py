"""Settings become the suppression list: what fails for good is told at once when it is written to again."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from mailserver import maillog
from mailserver.config import Settings
from mailserver.interfaces import IDirectory
from mailserver.policy.suppressions import FILE_NAME, FOR_GOOD, Suppressions
from mailserver.threads import Workers
from mailserver.values.address import NULL_SENDER, Address
from mailserver.values.envelope import Entry
from mailserver.values.expansion import accounts_behind
from mailserver.values.outcome import Failed

WRITE_SECONDS = 2.0
"""How often the list is written behind, and looked at for what commands have changed."""


class Suppressing:
    """The list, where ``submission.suppress_for`` says how long; nothing at all where it does not."""

    def __init__(self, settings: Settings, directory: IDirectory, workers: Workers, clock: Any) -> None:
        self._path = settings.state / FILE_NAME
        self._directory = directory
        self._workers = workers
        lasts = settings.submission.suppress_for
        self._list = Suppressions(self._path, lasts, time.time) if lasts else None
        self._writing = LoopingCall(self._write_later)
        self._writing.clock = clock

    @property
    def rules(self) -> list[Any]:
        """What is asked at RCPT."""
        return [self._list.suppressed] if self._list is not None else []

    @property
    def failed(self) -> Callable[[Entry, Sequence[Failed]], None] | None:
        """Whoever records failures tells them to this; ``None`` when nobody wants to know."""
        return self._failed if self._list is not None else None

    def open(self) -> None:
        """Read the list, and begin to write behind.

        Raises:
            OSError: it cannot be opened.
        """
        if self._list is None:
            return
        try:
            self._list.open()
        except sqlite3.Error as error:
            raise OSError(0, str(error), str(self._path)) from error
        self._writing.start(WRITE_SECONDS, now=False)

    def close(self) -> None:
        """Write what is not written yet."""
        if self._writing.running:
            self._writing.stop()
        try:
            if self._list is not None:
                self._list.close()
        except sqlite3.Error as error:
            maillog.fault("writing the suppression list", error)

    def _write_later(self) -> Deferred[None]:
        assert self._list is not None
        return self._workers.call(self._list.write).addErrback(
            lambda failure: maillog.fault("writing the suppression list", failure.value)
        )

    def _failed(self, entry: Entry, outcomes: Sequence[Failed]) -> None:
        """Never raises: a report must not wait for a list."""
        assert self._list is not None
        try:
            accounts = self._accounts(entry.envelope.reverse_path)
            for outcome in outcomes:
                # Behind an alias the address that failed is not the one that was written to.
                who = outcome.recipient
                if accounts and outcome.status in FOR_GOOD and who.original.key == who.address.key:
                    self._list.add(accounts, who.address, outcome.status, outcome.diagnostic)
        except Exception as error:
            maillog.fault("noting what failed for good", error, entry.queue_id)

    def _accounts(self, sender: Address) -> list[Address]:
        return [] if sender == NULL_SENDER else accounts_behind(self._directory.resolve, sender)
