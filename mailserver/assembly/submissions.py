"""Settings become submission: whom users write as, how much, when it leaves, and who hears of a hold."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from mailserver import maillog
from mailserver.accounts.directory import SqliteDirectory
from mailserver.config import Settings
from mailserver.interfaces import ISpool
from mailserver.policy.submission import SenderRights
from mailserver.policy.submission_notice import hold_notice
from mailserver.policy.usage import FILE_NAME, Usage, UsageLimits
from mailserver.receive.submission import Submission
from mailserver.threads import Bridge, Workers
from mailserver.values.account import Account
from mailserver.values.address import Address, domain_key
from mailserver.values.envelope import Entry

WRITE_SECONDS = 2.0
"""How often counts are written behind; a crash forgets so much of them."""


class Submissions:
    """What all submission listeners share. Making it opens nothing."""

    def __init__(
        self, settings: Settings, directory: SqliteDirectory, workers: Workers, bridge: Bridge, clock: Any
    ) -> None:
        own = settings.submission
        rights = SenderRights(directory.resolve)
        limits = UsageLimits(own.messages_per_hour, own.recipients_per_hour, own.new_recipients_per_day)
        self._settings = settings
        self._directory = directory
        self._workers = workers
        self._bridge = bridge
        self._counts = limits != UsageLimits()
        self._usage = Usage(settings.state / FILE_NAME, limits, time.time)
        self._writing = LoopingCall(self._write_later)
        self._writing.clock = clock
        self._spool: ISpool | None = None
        self._accepted: Callable[[Entry], None] = _ignore
        self.submission = Submission(
            may_use=rights.may_use,
            objection=rights.objection,
            hide_client=own.hide_client,
            delay=own.hold,
            charge=self._charge if self._counts else _free,
            held=self._held,
            highest_priority=self._highest_priority,
        )

    def _highest_priority(self, account: Account) -> int:
        own, address = self._settings.submission, account.address
        domain = f"@{domain_key(address.domain)}"
        return own.priorities.get(address.local.lower() + domain, own.priorities.get(domain, own.priority))

    def open(self, spool: ISpool, accepted: Callable[[Entry], None]) -> None:
        """Read what is on the disk, and begin to write behind; notices go into ``spool``.

        Raises:
            OSError: the counts cannot be opened.
        """
        self._spool, self._accepted = spool, accepted
        if self._counts:
            try:
                self._usage.open()
            except sqlite3.Error as error:
                raise OSError(0, str(error), str(self._settings.state / FILE_NAME)) from error
            self._writing.start(WRITE_SECONDS, now=False)

    def close(self) -> None:
        """Write what is not written yet. Call it when no session is left."""
        if self._writing.running:
            self._writing.stop()
        try:
            self._usage.close()
        except sqlite3.Error as error:
            maillog.fault("writing what accounts have sent", error)

    def _write_later(self) -> Deferred[None]:
        return self._workers.call(self._usage.write).addErrback(
            lambda failure: maillog.fault("writing what accounts have sent", failure.value)
        )

    def _charge(self, account: Account, recipients: Sequence[Address]) -> str | Awaitable[str]:
        name = str(account.address)
        if self._usage.is_loaded(name):
            return self._usage.charge(name, recipients)
        return self._charge_later(name, recipients)

    async def _charge_later(self, name: str, recipients: Sequence[Address]) -> str:
        await self._workers.call(self._usage.load, name)
        return self._usage.charge(name, recipients)

    def _held(self, account: Account, entry: Entry) -> None:
        maillog.held(entry)
        if self._counts and self._usage.is_news(str(account.address)):
            Deferred.fromCoroutine(self._tell(account, entry)).addErrback(
                lambda failure: maillog.fault("telling of a hold", failure.value, entry.queue_id)
            )

    async def _tell(self, account: Account, entry: Entry) -> None:
        assert self._spool is not None
        settings = self._settings
        postmaster = Address("postmaster", account.address.domain)
        notice = hold_notice(
            account,
            postmaster,
            entry.envelope.hold,
            settings.hostname,
            self._directory.resolve,
            time.time(),
            account.language or settings.language,
        )
        writer = self._spool.begin()
        writer.write(notice.content)
        spooled = await self._bridge.deferred(writer.commit(notice.envelope))
        maillog.notice_spooled(spooled, entry)
        self._accepted(spooled)


def _free(account: Account, recipients: Sequence[Address]) -> str:
    return ""


def _ignore(entry: Entry) -> None:
    """Before ``open`` nobody takes messages."""
