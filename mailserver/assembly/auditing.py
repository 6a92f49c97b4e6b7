"""The ledger's run: the trace's books against the spools and the mailboxes, at the start and daily."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from mailserver import maillog
from mailserver.config import Settings
from mailserver.retrieve.history import FILE_NAME, visits_of
from mailserver.spool.inspection import QueueInspection
from mailserver.store.paths import mailbox_path
from mailserver.store.trash import FOLDER as TRASH
from mailserver.threads import Bridge, Workers, WorkersStopped
from mailserver.trace.ledger import Books, Open
from mailserver.trace.segments import FOLDER
from mailserver.values.account import LocalUser, Resolution
from mailserver.values.address import Address, address_from
from mailserver.values.envelope import entry_number

SETTLING_SECONDS = 1.5
"""What is under way while we look gets so much time to be recorded."""

AFTER_START_SECONDS = 10.0
DAY_SECONDS = 86400.0

WORK_SECONDS, REST_SECONDS = 0.005, 0.02
"""In a running server the ledger works so long, then leaves the processor to mail for so long."""

_SESSIONS = 100_000
_NAME = re.compile(r"M\d+Q([0-9a-z]+\.\d+)\.")
_BROUGHT = re.compile(r"M\d+K[0-9a-f]+\.")

Resolve = Callable[[Address], Resolution]


@dataclass(frozen=True, slots=True)
class Missing:
    """A recipient without an end (``what`` is ``"recipient"``), or a delivered message whose file is gone
    (``"file"``); ``why`` says what is known."""

    what: str
    id: str
    number: int
    to: str
    why: str


@dataclass(slots=True)
class Report:
    """What the ledger found; ``unproven`` are recipients whose end may be among records that were lost."""

    messages: int = 0
    recipients: int = 0
    ends: dict[str, int] = field(default_factory=dict)
    waiting: int = 0
    files: int = 0
    missing: list[Missing] = field(default_factory=list)
    unproven: list[Missing] = field(default_factory=list)
    again: list[tuple[str, int, str]] = field(default_factory=list)
    lost_records: int = 0
    gaps: int = 0

    def fields(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @property
    def line(self) -> str:
        """All of it on one line, for the log."""
        ends = ", ".join(f"{count} {name}" for name, count in sorted(self.ends.items()))
        return (
            f"{self.messages} messages to {self.recipients} recipients: {ends or 'no ends yet'}, "
            f"{self.waiting} waiting, {len(self.missing)} missing, {len(self.unproven)} unproven"
        )


def audit(settings: Settings, resolve: Resolve, pace: Callable[[], object] = lambda: None) -> Report:
    """Keep the books and look for what they say is there. Blocks.

    Raises:
        OSError, SpoolUnusable: the trace or a spool cannot be read.
    """
    folder = settings.state / FOLDER
    books = Books()
    books.read(folder, pace)
    report = Report()
    with QueueInspection(settings.state / "spool") as spools:
        if any(_without_end(entry, spools) for entry in books.open.values()):
            time.sleep(SETTLING_SECONDS)
            books.read(folder, pace)
        for entry in books.open.values():
            pace()
            _look_at(entry, books, spools, report)
    report.messages, report.recipients = books.messages, books.recipients
    report.ends = dict(books.ends)
    report.again = books.again
    report.gaps, report.lost_records = len(books.gaps), sum(gap.count for gap in books.gaps)
    if settings.trace.mailboxes:
        _look_for_files(settings, books, resolve, report, pace)
    return report


def _without_end(entry: Open, spools: QueueInspection) -> set[int]:
    return set(entry.waiting) - spools.waiting_numbers(entry_number(entry.id))


def _look_at(entry: Open, books: Books, spools: QueueInspection, report: Report) -> None:
    gone = _without_end(entry, spools)
    report.waiting += len(entry.waiting) - len(gone)
    gap = books.may_have_lost(entry)
    for number in sorted(gone):
        if gap is None:
            why = "accepted, without any end, and not in the spool"
            report.missing.append(Missing("recipient", entry.id, number, entry.waiting[number], why))
        else:
            moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(gap.since))
            why = f"not in the spool; its end may be among the records lost after {moment}"
            report.unproven.append(Missing("recipient", entry.id, number, entry.waiting[number], why))


# -- mailboxes -----------------------------------------------------------------------------------


def _look_for_files(
    settings: Settings, books: Books, resolve: Resolve, report: Report, pace: Callable[[], object]
) -> None:
    wanted: dict[Address, dict[str, tuple[str, int, str]]] = defaultdict(dict)
    owners: dict[str, Address | None] = {}
    for id_, number, to in books.delivered:
        if to not in owners:
            owners[to] = _maildir_of(settings, resolve(address_from(to)), address_from(to))
        if (owner := owners[to]) is not None:
            wanted[owner][f"{id_}.{number}"] = (id_, number, to)
    for owner, messages in wanted.items():
        pace()
        maildir = Path(mailbox_path(str(settings.store.path), owner))
        gone = messages.keys() - _names(maildir)
        report.files += len(messages) - len(gone)
        if gone:
            gone = _not_deleted(settings.state / FILE_NAME, str(owner), gone)
            gone = set(sorted(gone)[_brought(maildir) :])
        for name in sorted(gone):
            id_, number, to = messages[name]
            why = f"delivered to the mailbox of {owner}; the file is gone, and nobody deleted it by POP3"
            report.missing.append(Missing("file", id_, number, to, why))


def _maildir_of(settings: Settings, answer: Resolution, to: Address) -> Address | None:
    """Whose Maildir a message was delivered to; ``None`` where it is an mbox now, which names no messages."""
    if not isinstance(answer, LocalUser):
        return to
    is_mbox = (answer.account.format or settings.store.format) == "mbox"
    return None if is_mbox else answer.account.address


def _brought(maildir: Path) -> int:
    """How many messages a conversion or an import has brought, under names that tell no queue id: as many of
    those that are looked for may be among them."""
    names: list[str] = []
    for folder in (maildir / "new", maildir / "cur"):
        with suppress(OSError):
            names += os.listdir(folder)
    return sum(1 for name in names if _BROUGHT.search(name))


def _names(maildir: Path) -> set[str]:
    """``ID.NUMBER`` of every message in a Maildir and its trash."""
    names: set[str] = set()
    for folder in (maildir / "new", maildir / "cur", *(maildir / TRASH).glob("*")):
        with suppress(OSError):
            names |= _keys(os.listdir(folder))
    return names


def _keys(names: Iterable[str]) -> set[str]:
    return {found[1] for name in names if (found := _NAME.search(name))}


def _not_deleted(history: Path, user: str, gone: set[str]) -> set[str]:
    """Those of ``gone`` that no POP3 session has deleted. Deletions of messages with a unique id of another
    kind cannot be told apart: so many of the oldest are let off."""
    deleted: set[str] = set()
    unknown = 0
    try:
        for visit in visits_of(history, user, _SESSIONS):
            keys = _keys(visit.deleted)
            deleted |= keys
            unknown += visit.deleted_count - len(keys)
    except (sqlite3.Error, OSError):
        return set()  # nobody can tell
    return set(sorted(gone - deleted)[unknown:])


# -- in a running server -------------------------------------------------------------------------


class Stopping(Exception):
    """The server ends while the ledger runs."""


class Auditing:
    """Runs the ledger in a thread of its own, some seconds after the start and then daily."""

    def __init__(self, settings: Settings, resolve: Resolve, bridge: Bridge, clock: Any) -> None:
        self._settings = settings
        self._resolve = resolve
        self._clock = clock
        self._workers = Workers(bridge, "ledger", 1)
        self._daily = LoopingCall(self._run)
        self._daily.clock = clock
        self._first: Any = None
        self._stopping = False
        self._worked_since = 0.0

    def start(self) -> None:
        """Begin; nothing is read before ``AFTER_START_SECONDS``."""
        if self._settings.trace.keep:
            self._workers.start()
            self._first = self._clock.callLater(AFTER_START_SECONDS, self._daily.start, DAY_SECONDS)

    def stop(self) -> None:
        """End at once, also in the middle."""
        self._stopping = True
        if self._first is not None and self._first.active():
            self._first.cancel()
        if self._daily.running:
            self._daily.stop()
        self._workers.stop()

    def _run(self) -> Deferred[None]:
        running = self._workers.call(audit, self._settings, self._resolve, self._pace)
        return running.addCallbacks(self._tell, self._failed)

    def _tell(self, report: Report) -> None:
        maillog.ledger(report.line, len(report.missing))
        for one in report.missing[:20]:
            maillog.misconfigured(f"ledger: {one.what} <{one.to}>: {one.why}", one.id)

    def _failed(self, failure: Any) -> None:
        if not failure.check(Stopping, WorkersStopped):
            maillog.fault("keeping the ledger", failure.value)

    def _pace(self) -> None:
        if self._stopping:
            raise Stopping
        if time.monotonic() - self._worked_since > WORK_SECONDS:
            time.sleep(REST_SECONDS)
            self._worked_since = time.monotonic()
