"""The embedded spool: SQLite in WAL mode, one thread that commits for everybody who is waiting."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from zope.interface import implementer

from mailserver.durable import Disk
from mailserver.group_commit import GroupCommit
from mailserver.interfaces import ANY_LANE, ISpool, Notice, SpoolFull, SpoolUnavailable
from mailserver.promise import Promise
from mailserver.spool import leases
from mailserver.spool.bodies import Bodies, BodyStream
from mailserver.spool.committer import MARK_AHEAD, Call, Committer, NewEntry, Write
from mailserver.spool.content import ContentReader, StoredContent
from mailserver.spool.numbers import WORKER_BITS, SpoolNumbers
from mailserver.spool.rows import attempt_rows, delayed_row, entry_row, recipient_rows
from mailserver.spool.schema import SpoolUnusable, bodies_path, lock_path, open_for_writing, spool_path
from mailserver.spool.writer import HeldMemory, SpoolWriter
from mailserver.values.content import Content, FileContent, MemoryContent
from mailserver.values.envelope import Entry, Envelope, Waiting
from mailserver.values.outcome import Delayed, Outcome

__all__ = ["SpoolUnusable", "SqliteSpool"]

T = TypeVar("T")

IN_MEMORY_OCTETS = 64 * 1024
"""Content up to this size stays in memory from acceptance to delivery."""

_TOGETHER = 32
"""Most requests handed over together: with content of the largest size they are a whole commit."""

# `mailserver queue` looks at the lock for a moment; a start just then must not take it for a server.
_LOCK_TRIES = 10
_LOCK_PAUSE = 0.02


@implementer(ISpool)
class SqliteSpool:
    """The spool of one worker process, in ``folder``; ``worker`` is 0 to 1023.

    Construction touches nothing; ``start`` opens and ``stop`` closes, and both block.
    """

    def __init__(
        self,
        folder: Path,
        disk: Disk,
        worker: int = 0,
        now: Callable[[], float] = time.time,
        group: GroupCommit | None = None,
    ) -> None:
        """With ``group`` what is asked for in one turn of the reactor, or while more is expected, is handed
        to the committer together, and those who waited for a commit are told of it in the reactor's thread:
        one that wakes for the first of twenty commits twenty times, and fights for the interpreter."""
        if not 0 <= worker < 1 << WORKER_BITS:
            raise ValueError(f"a worker's number is 0 to {(1 << WORKER_BITS) - 1}, not {worker}")
        self._folder = folder
        self._disk = disk
        self._worker = worker
        self._now = now
        self._group = group
        self._departure = None if group is None else group.departure(self._hand_over)
        self._gathered: list[Write[Any]] = []
        self.memory = HeldMemory()
        self._opened: ExitStack | None = None

    def start(self) -> None:
        """Open the files, after privileges are dropped; what an earlier process left is due.

        Raises:
            SpoolUnusable: with a text for the administrator.
        """
        path = spool_path(self._folder, self._worker)
        with ExitStack() as opened:
            try:
                self._disk.make_folder(self._folder)
                self._open(path, opened)
            except (OSError, sqlite3.Error) as error:
                raise SpoolUnusable(f"the spool {path} cannot be opened: {error}") from error
            self._opened = opened.pop_all()
        self._first = self._numbers.next()
        self._committer.start()

    def _open(self, path: Path, opened: ExitStack) -> None:
        """Open everything; ``opened`` closes it again, in the reverse order."""
        opened.callback(os.close, _exclusive(lock_path(self._folder, self._worker)))
        db = open_for_writing(path)
        opened.callback(db.close)
        leases.expire_leases(db)
        self._disk.sync_folder(self._folder)
        self._reader = ContentReader(path)
        opened.callback(self._reader.close)
        self.bodies = Bodies(bodies_path(self._folder, self._worker), self._disk)
        self.bodies.sweep([number for (number,) in db.execute("SELECT id FROM entry WHERE content IS NULL")])
        self._numbers = SpoolNumbers(self._worker, _reserved(db, self._now), self._now)
        self._committer = Committer(
            db, self.bodies.remove, None if self._group is None else self._group.turns.call
        )

    def stop(self) -> None:
        """Finish what was handed over, then close. Later requests fail with ``SpoolUnavailable``.

        Harmless when the spool was never started, and twice.
        """
        opened, self._opened = self._opened, None
        if opened is None:
            return
        self._hand_over()
        self.bodies.stop()
        self._committer.stop()
        opened.close()

    def begin(self) -> SpoolWriter:
        """See ``ISpool``."""
        return SpoolWriter(self, self._numbers.next())

    def due(
        self, now: float, limit: int, lanes: Sequence[int] = ANY_LANE, without: Sequence[int] = ()
    ) -> Future[Sequence[Entry]]:
        """See ``ISpool``; at most 1,000 recipients of a message in one entry."""
        asked = leases.Asked(now, limit, tuple(lanes), tuple(without))
        return self._call(lambda db: leases.lease_due(db, asked, self._content, self._first))

    def next_due(self) -> Future[float | None]:
        """See ``ISpool``."""
        return self._call(leases.next_due)

    def is_gone(self, entry_id: int) -> Future[bool]:
        """See ``ISpool``."""
        query = "SELECT NOT EXISTS (SELECT 1 FROM entry WHERE id = ?)"
        return self._call(lambda db: bool(db.execute(query, (entry_id,)).fetchone()[0]))

    def expedite(self, domain: str) -> Future[int]:
        """See ``ISpool``."""
        return self._call(lambda db: leases.expedite(db, domain))

    def give_back(self, entry: Entry, lane: int = 0) -> Future[None]:
        """See ``ISpool``."""
        future: Future[None] = Promise()
        # Due before everybody who waits for a time, the more urgent the earlier (RFC 6710 §4.1).
        due_at = -entry.envelope.priority
        rows = ",".join([f"[{entry.id},{one.recipient.number},{due_at},{lane}]" for one in entry.waiting])
        self._committer.put(Write(future, None, returned=rows))
        return future

    def record(
        self, entry: Entry, outcomes: Sequence[Outcome], notices: Sequence[Notice] = ()
    ) -> Future[Sequence[Entry]]:
        """See ``ISpool``."""
        delayed = [delayed_row(entry.id, o) for o in outcomes if isinstance(o, Delayed)]
        finished = [f"[{entry.id},{o.recipient.number}]" for o in outcomes if not isinstance(o, Delayed)]
        future: Future[Sequence[Entry]] = Promise()
        try:
            made = [self._new(self._numbers.next(), one.envelope, one.content) for one in notices]
        except ValueError as error:
            future.set_exception(SpoolUnavailable(str(error)))
            return future
        gone = (entry.id,) if finished else ()
        self._write(
            Write(
                future,
                [one for _, one in made],
                entries=[row for row, _ in made],
                finished=",".join(finished),
                delayed=",".join(delayed),
                attempts=attempt_rows(entry, outcomes),
                gone=gone,
                with_file=gone if isinstance(entry.content, FileContent) else (),
            )
        )
        return future

    def has_reserved(self, number: int) -> bool:
        """Whether a number can never come back, even if nothing of its message is kept.

        The next commit reserves a range where it is not so, and until then a commit is the way.
        """
        return bool(number <= self._committer.mark)

    def unkept(self, number: int, envelope: Envelope, content: Content) -> Entry:
        """The entry that a message in memory would be."""
        return _leased(number, self._now(), envelope, content)

    def unkept_file(self, number: int, envelope: Envelope, size: int, stream: BodyStream) -> Future[Entry]:
        """The entry that a message would be whose octets go to a file, once they can be read there."""
        future: Future[Entry] = Promise()

        def readable(reading: Future[Path]) -> None:
            if (error := reading.exception()) is not None:
                future.set_exception(error)
            else:
                content = FileContent(reading.result(), size)
                future.set_result(_leased(number, self._now(), envelope, content))

        stream.readable().add_done_callback(readable)
        return future

    def keep(self, number: int, envelope: Envelope, octets: bytes) -> Future[Entry]:
        """Commit a message that lives in the database."""
        future: Future[Entry] = Promise()
        try:
            row, entry = self._new(number, envelope, octets)
        except ValueError as error:
            future.set_exception(SpoolUnavailable(str(error)))
        else:
            self._write(Write(future, entry, entries=(row,)))
        return future

    def _write(self, write: Write[Any]) -> None:
        """Hand it over with the others."""
        if self._departure is None:
            self._committer.put(write)
            return
        self._gathered.append(write)
        if len(self._gathered) >= _TOGETHER:
            self._hand_over()
        else:
            self._departure.gathered()

    def _hand_over(self) -> None:
        writes, self._gathered = self._gathered, []
        if writes:
            if self._departure is not None:
                writes[0].future.add_done_callback(self._arrived)
            self._committer.put_all(writes)

    def _arrived(self, _: object) -> None:
        assert self._departure is not None
        self._departure.arrived()

    def keep_file(self, number: int, envelope: Envelope, size: int, stream: BodyStream) -> Future[Entry]:
        """Sync a message's file, then commit its envelope."""
        future: Future[Entry] = Promise()
        arrived = self._now()
        try:
            head, rows = entry_row(number, arrived, envelope), recipient_rows(number, envelope)
        except ValueError as error:
            stream.discard()
            future.set_exception(SpoolUnavailable(str(error)))
            return future
        row = NewEntry(number, head, rows, size, None)

        def synced(ending: Future[Path]) -> None:
            error = ending.exception()
            if error is not None:
                future.set_exception(error)
                return
            entry = _leased(number, arrived, envelope, FileContent(ending.result(), size))
            self._committer.put(Write(future, entry, entries=(row,)))

        def committed(done: Future[Entry]) -> None:
            # A full disk wrote nothing, and wants its room back.  After any other fault the row
            # may yet be found on the disk, so the file stays until the next start looks.
            if isinstance(done.exception(), SpoolFull):
                stream.discard()

        future.add_done_callback(committed)
        stream.finish().add_done_callback(synced)
        return future

    def _new(self, number: int, envelope: Envelope, octets: bytes) -> tuple[NewEntry, Entry]:
        arrived = self._now()
        head, rows = entry_row(number, arrived, envelope), recipient_rows(number, envelope)
        size = len(octets)
        content = MemoryContent(octets) if size <= IN_MEMORY_OCTETS else self._content(number, size, False)
        return NewEntry(number, head, rows, size, octets), _leased(number, arrived, envelope, content)

    def _content(self, number: int, size: int, has_file: bool) -> Content:
        if has_file:
            return FileContent(self.bodies.path(number), size)
        return StoredContent(self._reader, number, size)

    def _call(self, function: Callable[[sqlite3.Connection], T]) -> Future[T]:
        future: Future[T] = Promise()
        self._committer.put(Call(future, function))
        return future


def _reserved(db: sqlite3.Connection, now: Callable[[], float]) -> int:
    """The highest number that an earlier process may have given out; a second's worth beyond it,
    or beyond this moment, is reserved for ours."""
    (mark,) = db.execute("SELECT value FROM mark WHERE name = 'issued'").fetchone()
    moment = int(now() * 1e6) << WORKER_BITS
    db.execute("UPDATE mark SET value = ? WHERE name = 'issued'", (max(mark, moment) + MARK_AHEAD,))
    return int(mark)


def _leased(number: int, arrived: float, envelope: Envelope, content: Content) -> Entry:
    return Entry(number, arrived, envelope, tuple([Waiting(one) for one in envelope.recipients]), content)


def _exclusive(path: Path) -> int:
    """An open file that only one process can hold.

    Raises:
        SpoolUnusable: another process has it.
        OSError: it cannot be made.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    for last in (False,) * _LOCK_TRIES + (True,):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)  # for whoever wants to know who has it
            return fd
        except BlockingIOError:
            if not last:
                time.sleep(_LOCK_PAUSE)
        except OSError:
            os.close(fd)
            raise
    holder = os.pread(fd, 20, 0).strip().decode("ascii", "replace")
    os.close(fd)
    by = f"process {holder}" if holder else "another process"
    raise SpoolUnusable(
        f"another server uses the spool ({path} is locked by {by}); end that one, or give this one another "
        "`state`"
    )
