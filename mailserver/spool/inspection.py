"""What an operator sees and changes of the queue, while the server runs and while it is stopped."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from mailserver.durable import Disk
from mailserver.spool.content import ContentReader, StoredContent
from mailserver.spool.rows import WAITING_COLUMNS, envelope_from, waiting_from
from mailserver.spool.schema import (
    NEVER,
    SpoolUnusable,
    bodies_path,
    check_version,
    connect,
    lock_path,
    spool_path,
    spool_workers,
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
_DUE_NOW = f"UPDATE recipient SET next_attempt = 0 WHERE next_attempt < {NEVER!r}"


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
                self._spools.append(_OneSpool(folder, worker))

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
        """Every message, oldest first in each worker's spool, read a page at a time."""
        for spool in self._spools:
            with _told(spool.path):
                yield from spool.entries()

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

    def selected(self, selection: Selection) -> list[int]:
        """The numbers of the messages that are meant, oldest first in each spool."""
        condition, given = selection.condition()
        found: list[int] = []
        for spool in self._spools:
            with _told(spool.path):
                found += spool.numbers(f"SELECT id FROM entry WHERE {condition} ORDER BY id", given)
        return found

    def hold(self, number: int, reason: str, until: float = 0.0) -> int:
        """Keep one message's waiting recipients back, for good or ``until`` (seconds since the epoch); how
        many that are. Leased ones are being tried already."""
        return self._change(
            f"UPDATE recipient SET next_attempt = {until or NEVER!r}"
            " WHERE next_attempt IS NOT NULL AND entry = ?",
            (number,),
            "UPDATE entry SET hold = ?2 WHERE id = ?1",
            (number, reason),
        )

    def order(self, number: int, what: str, words: str) -> int:
        """Write an operator's order, ``bounce`` or ``route``, on one message's envelope, and make it due; how
        many recipients that are. Leased ones meet it at their next attempt."""
        if what not in ("bounce", "route"):
            raise ValueError(what)
        return self._change(
            "UPDATE recipient SET next_attempt = 0 WHERE next_attempt IS NOT NULL AND entry = ?",
            (number,),
            f"UPDATE entry SET parameters = json_set(parameters, '$.{what}', ?2), hold = NULL WHERE id = ?1",
            (number, words),
        )

    def retry_entry(self, number: int) -> int:
        """Make the recipients of one message due now; how many that are.

        Leased recipients are left alone: they are being tried already.  A message that was set
        aside or held is released.  A running server sees the change within a second or two.
        """
        return self._change(
            "UPDATE recipient SET next_attempt = 0 WHERE next_attempt IS NOT NULL AND entry = ?",
            (number,),
            "UPDATE entry SET hold = NULL WHERE id = ? AND hold IS NOT NULL",
        )

    def retry_recipient(self, address: Address) -> int:
        """Make every waiting recipient of this address due now (also one that the sender knew by
        it, before aliases); how many that are. Leased and held ones are left alone."""
        key = address.local, domain_key(address.domain)
        return self._change(
            f"{_DUE_NOW} AND ((local = ? AND domain_key(domain) = ?)"
            " OR (original_local = ? AND domain_key(original_domain) = ?))",
            (*key, *key),
        )

    def retry_domain(self, domain: str) -> int:
        """Make every waiting recipient in this domain due now; how many that are. Leased and held
        ones are left alone."""
        return self._change(f"{_DUE_NOW} AND domain_key(domain) = ?", (domain_key(domain),))

    def retry_all(self) -> int:
        """Make everybody who waits due now; how many that are. Leased and held ones are left alone."""
        return self._change(_DUE_NOW, ())

    def remove(self, number: int) -> bool:
        """Remove one message with all its recipients; no report is made. ``False``: it is not there.

        Leased recipients go too.  The attempt that is under way is not stopped: it may still
        deliver, and a failure that it meets may still be reported to the sender, but nothing is
        tried again.
        """
        removed = False
        for spool in self._spools:
            with _told(spool.path):
                removed |= spool.remove(number)
        return removed

    def recall(self, number: int, now: float) -> bool:
        """Remove one message that still waits for its release, before anybody was tried. ``False``: it
        does not, or is not there."""
        for spool in self._spools:
            with _told(spool.path):
                if spool.remove(number, not_before=now):
                    return True
        return False

    def _change(
        self,
        statement: str,
        parameters: tuple[object, ...],
        also: str = "",
        also_with: tuple[object, ...] | None = None,
    ) -> int:
        changed = 0
        for spool in self._spools:
            with _told(spool.path):
                changed += spool.change(statement, parameters, also, also_with)
        return changed


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
            has_end = next_attempt is not None and 0 < next_attempt < NEVER
            yield QueuedRecipient(waiting_from(row), next_attempt, held and not has_end)

    def numbers(self, query: str, given: list[object]) -> list[int]:
        return [number for (number,) in self._db.execute(query, given).fetchall()]

    def change(
        self,
        statement: str,
        parameters: tuple[object, ...],
        also: str,
        also_with: tuple[object, ...] | None = None,
    ) -> int:
        """Run ``statement``, and ``also`` with parameters of its own or the first, in one transaction."""
        with self._transaction():
            changed = self._db.execute(statement, parameters).rowcount
            if also:
                self._db.execute(also, parameters[:1] if also_with is None else also_with)
        return changed

    def remove(self, number: int, not_before: float | None = None) -> bool:
        """Remove a message; with ``not_before`` only when none of its recipients is due before."""
        with self._transaction():
            if not_before is not None and not self._waits_until(number, not_before):
                return False
            self._db.execute("DELETE FROM recipient WHERE entry = ?", (number,))
            gone = self._db.execute(
                "DELETE FROM entry WHERE id = ? RETURNING content IS NULL", (number,)
            ).fetchall()
        if gone and gone[0][0]:
            # After the commit; if we end here, the server's next start sweeps the orphan.
            with suppress(FileNotFoundError):
                self._disk.remove(self._bodies / queue_id(number))
        return bool(gone)

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
