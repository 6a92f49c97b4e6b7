"""What an operator sees and changes of the queue, while the server runs and while it is stopped."""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from mailserver.durable import Disk
from mailserver.spool.content import ContentReader, StoredContent
from mailserver.spool.orders import Changed, Order, remove
from mailserver.spool.rows import WAITING_COLUMNS, envelope_from, waiting_from
from mailserver.spool.schema import (
    NEVER,
    SpoolUnusable,
    bodies_path,
    bring_up_to_date,
    check_version,
    connect,
    lock_path,
    spool_path,
    spool_workers,
    version_of,
)
from mailserver.spool.selection import Selection
from mailserver.values.address import Address, domain_key
from mailserver.values.content import Content, FileContent
from mailserver.values.envelope import Envelope, Waiting, queue_id

RECIPIENTS_SHOWN = 1000
"""Recipients of one message that are read at once."""

_PAGE = 100
_ENTRY_COLUMNS = "id, arrived, reverse_local, reverse_domain, parameters, hold, size, content IS NULL"
_RECIPIENTS = f"""
SELECT next_attempt, {WAITING_COLUMNS} FROM recipient WHERE entry = ? ORDER BY number LIMIT {RECIPIENTS_SHOWN}
"""


@dataclass(frozen=True, slots=True)
class QueuedRecipient:
    """``next_attempt`` in seconds since the epoch (0: at once); ``None``: being delivered now, or,
    when the server is not running, as soon as it starts; ``held``: not before somebody releases it."""

    waiting: Waiting
    next_attempt: float | None
    held: bool = False


@dataclass(frozen=True, slots=True)
class QueuedEntry:
    """One message of the queue. ``recipients`` are those that still wait, the first
    ``RECIPIENTS_SHOWN`` of ``recipient_count``; ``hold`` says why nothing is tried, or ``""``."""

    id: int
    arrived: float
    envelope: Envelope
    size: int
    hold: str
    recipients: tuple[QueuedRecipient, ...]
    recipient_count: int
    content: Content

    @property
    def queue_id(self) -> str:
        return queue_id(self.id)


class QueueInspection:
    """The spools of all workers below ``folder``; a context manager.

    It has connections of its own, and its changes are short transactions that wait up to ten
    seconds for the server's, so both may work at once.  Where there is no spool yet the queue is
    empty.

    Raises:
        SpoolUnusable: a spool cannot be read; the text is for the administrator.  The methods
            raise it too.
    """

    def __init__(self, folder: Path) -> None:
        self._spools: list[_OneSpool] = []
        with _told(folder):
            for worker in spool_workers(folder):
                spool = _OneSpool(folder, worker)
                if spool.has_tables:
                    self._spools.append(spool)
                else:  # a worker is about to make them
                    spool.close()

    def __enter__(self) -> QueueInspection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. Harmless twice."""
        while self._spools:
            self._spools.pop().close()

    @property
    def server_runs(self) -> bool:
        """Whether a server has a spool open, so that a leased recipient is really being delivered."""
        return any(spool.is_served() for spool in self._spools)

    def entries(self) -> Iterator[QueuedEntry]:
        """Every message of all workers, oldest first, read a page at a time."""
        # By their numbers, which begin with the time, and by which each spool is sorted.
        yield from heapq.merge(*map(_entries_told, self._spools), key=lambda entry: entry.id)

    def entry(self, number: int) -> QueuedEntry | None:
        """One message, whose ``content`` can be read while this object is open; ``None``: not there."""
        for spool in self._spools:
            with _told(spool.path):
                found = spool.entry(number)
            if found is not None:
                return found
        return None

    def waiting_numbers(self, number: int) -> set[int]:
        """The numbers of one message's recipients that still wait; none when it is not there."""
        found: set[int] = set()
        for spool in self._spools:
            with _told(spool.path):
                found.update(spool.numbers("SELECT number FROM recipient WHERE entry = ?", [number]))
        return found

    def attempts(self, number: int) -> list[dict[str, Any]]:
        """What was tried for one message and is still remembered, the oldest first: fields as
        ``values.attempt.Attempt.fields`` gives them, and the recipients' numbers."""
        found: list[dict[str, Any]] = []
        for spool in self._spools:
            with _told(spool.path):
                found += spool.attempts(number)
        return found

    def change(self, order: Order, selection: Selection) -> Changed:
        """Give an order (``spool.orders``) to what is meant, in one transaction for each spool. A running
        server sees the change within a second or two."""
        changed = Changed()
        for spool in self._spools:
            with _told(spool.path):
                changed += spool.change(order, selection)
        return changed

    def reasons(self, domain: str) -> list[tuple[int, str]]:
        """How many recipients in a domain wait, by the last reason, the most first."""
        found: Counter[str] = Counter()
        for spool in self._spools:
            with _told(spool.path):
                found.update(spool.reasons(domain_key(domain)))
        return [(count, reason) for reason, count in found.most_common()]

    def recall(self, number: int, now: float) -> bool:
        """Remove one message that still waits for its release, before anybody was tried. ``False``: it
        does not, or is not there."""
        for spool in self._spools:
            with _told(spool.path):
                if spool.change(remove, Selection((number,)), now).messages:
                    return True
        return False


def _entries_told(spool: _OneSpool) -> Iterator[QueuedEntry]:
    with _told(spool.path):
        yield from spool.entries()


class _OneSpool:
    """One worker's spool."""

    def __init__(self, folder: Path, worker: int) -> None:
        self.path = spool_path(folder, worker)
        self._bodies = bodies_path(folder, worker)
        self._disk = Disk()
        self._lock = lock_path(folder, worker)
        self._db = connect(self.path)
        try:
            check_version(self._db, self.path)
            self.has_tables = bool(version_of(self._db))
            if self.has_tables:
                bring_up_to_date(self._db)
            self._db.text_factory = _readable
            self._db.create_function("domain_key", 1, _domain_key, deterministic=True)
            self._reader = ContentReader(self.path)
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._reader.close()
        self._db.close()

    def is_served(self) -> bool:
        """Whether a process has the spool's lock; asking for a shared one disturbs nobody for long."""
        try:
            fd = os.open(self._lock, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def entries(self) -> Iterator[QueuedEntry]:
        last = -1
        while True:
            rows = self._db.execute(
                f"SELECT {_ENTRY_COLUMNS} FROM entry WHERE id > ? ORDER BY id LIMIT {_PAGE}", (last,)
            ).fetchall()
            for row in rows:
                yield self._entry(row)
            if len(rows) < _PAGE:
                return
            last = rows[-1][0]

    def entry(self, number: int) -> QueuedEntry | None:
        row = self._db.execute(f"SELECT {_ENTRY_COLUMNS} FROM entry WHERE id = ?", (number,)).fetchone()
        return None if row is None else self._entry(row)

    def attempts(self, number: int) -> Iterator[dict[str, Any]]:
        if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'attempt'").fetchone():
            return  # a file that no server of this version has opened yet
        query = "SELECT facts FROM attempt WHERE entry = ? ORDER BY number"
        for (text,) in self._db.execute(query, (number,)).fetchall():
            with suppress(ValueError):
                yield json.loads(text)

    def _entry(self, row: tuple[int, float, str, str, str, str | None, int, int]) -> QueuedEntry:
        number, arrived, local, domain, parameters, hold, size, has_file = row
        recipients = tuple(self._recipients(number, hold is not None))
        waiting = [one.waiting for one in recipients]
        count = len(recipients)
        if count == RECIPIENTS_SHOWN:
            (count,) = self._db.execute(
                "SELECT count(*) FROM recipient WHERE entry = ?", (number,)
            ).fetchone()
        try:
            envelope = envelope_from(local, domain, parameters, waiting)
        except (ValueError, TypeError, AttributeError):
            envelope = Envelope(Address(local, domain), tuple(one.recipient for one in waiting))
        if hold:
            envelope = replace(envelope, hold=hold)
        content: Content = (
            FileContent(self._bodies / queue_id(number), size)
            if has_file
            else StoredContent(self._reader, number, size)
        )
        return QueuedEntry(number, arrived, envelope, size, hold or "", recipients, count, content)

    def _count(self, number: int) -> int:
        (count,) = self._db.execute("SELECT count(*) FROM recipient WHERE entry = ?", (number,)).fetchone()
        return int(count)

    def _recipients(self, number: int, held: bool) -> Iterator[QueuedRecipient]:
        for next_attempt, *row in self._db.execute(_RECIPIENTS, (number,)).fetchall():
            waiting = waiting_from(row)
            has_end = next_attempt is not None and 0 < next_attempt < NEVER
            yield QueuedRecipient(waiting, next_attempt, (held or bool(waiting.hold)) and not has_end)

    def numbers(self, query: str, given: list[object]) -> list[int]:
        return [number for (number,) in self._db.execute(query, given).fetchall()]

    def reasons(self, domain: str) -> dict[str, int]:
        query = "SELECT reason, count(*) FROM recipient WHERE domain_key(domain) = ? GROUP BY reason"
        return {reason: int(count) for reason, count in self._db.execute(query, (domain,)).fetchall()}

    def change(self, order: Order, selection: Selection, not_before: float | None = None) -> Changed:
        """Run ``order`` in one transaction; with ``not_before`` only where the one message that is meant
        has no recipient that is due before."""
        with self._transaction():
            if not_before is not None and not self._waits_until(selection.numbers[0], not_before):
                return Changed()
            changed = order(self._db, selection)
        for number in changed.with_file:
            # After the commit; if we end here, the server's next start sweeps the orphan.
            with suppress(FileNotFoundError):
                self._disk.remove(self._bodies / queue_id(number))
        return changed

    def _waits_until(self, number: int, moment: float) -> bool:
        """Whether there are recipients, and all of them have not been tried and wait longer than that."""
        count, waiting = self._db.execute(
            f"SELECT count(*), sum(attempts = 0 AND next_attempt > ? AND next_attempt < {NEVER!r})"
            " FROM recipient WHERE entry = ?",
            (moment, number),
        ).fetchone()
        return bool(count) and count == waiting

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise


def _readable(octets: bytes) -> str:
    """A damaged text must not hide the whole queue from the one who has come to mend it."""
    return octets.decode("utf-8", "replace")


def _domain_key(domain: object) -> str:
    return domain_key(domain) if isinstance(domain, str) else ""


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Faults of the database or the disk in words for the administrator."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise SpoolUnusable(f"the queue in {path} cannot be used: {error}") from error
