"""The one thread that writes the spool's database, and commits once for everybody who is waiting."""

from __future__ import annotations

import errno
import json
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from mailserver.interfaces import SpoolFull, SpoolUnavailable
from mailserver.spool.schema import APPLY_BATCH

T = TypeVar("T")

_BATCH_REQUESTS = 512
_BATCH_OCTETS = 8 * 1024 * 1024
_CHECKPOINT_OCTETS = 8 * 1024 * 1024
_PAGE = 4096  # SQLite's own choice; 8 KiB costs a quarter more here, 16 KiB brings nothing

MARK_AHEAD = 10_000_000 << 10
"""Ten seconds of ids (spool/sqlite.py): the mark runs this far ahead, so that few commits move it."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

# Faults of one request, not of the disk: the others in its batch are tried without it.
_ITS_OWN_FAULT = {
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_MISUSE,
    sqlite3.SQLITE_RANGE,
}


@dataclass(slots=True)
class NewEntry:
    """``head`` is a row of ``entry`` as JSON without its end; ``recipients`` JSON rows; ``octets``
    is ``None`` for content in a file of its own."""

    id: int
    head: str
    recipients: str
    size: int
    octets: bytes | None


@dataclass(slots=True)
class Write(Generic[T]):
    """Changes that must all become durable before ``future`` has ``result``.

    ``finished``, ``delayed``, ``returned`` and ``attempts`` are JSON rows with commas between them;
    ``gone`` are ids of entries that may have nobody left, ``with_file`` those of them that have a file.
    """

    future: Future[T]
    result: T
    entries: Sequence[NewEntry] = ()
    finished: str = ""
    delayed: str = ""
    returned: str = ""
    attempts: str = ""
    gone: Sequence[int] = ()
    with_file: Sequence[int] = ()


@dataclass(slots=True)
class Call(Generic[T]):
    """A function to run on the committer's connection, in the committer's thread."""

    future: Future[T]
    function: Callable[[sqlite3.Connection], T]


Request = Write[Any] | Call[Any]


def spool_error(error: BaseException) -> SpoolUnavailable:
    """What the caller is told of a fault below."""
    if isinstance(error, SpoolUnavailable):
        return error
    # The low octet of an extended code is the primary one.
    if isinstance(error, sqlite3.Error) and _primary_code(error) == sqlite3.SQLITE_FULL:
        return SpoolFull(str(error))
    if isinstance(error, OSError) and error.errno in _FULL:
        return SpoolFull(str(error))
    return SpoolUnavailable(f"{type(error).__name__}: {error}")


def _primary_code(error: sqlite3.Error) -> int:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return int(code) & 0xFF


def _is_its_own_fault(error: Exception) -> bool:
    return not isinstance(error, sqlite3.Error) or _primary_code(error) in _ITS_OWN_FAULT


HandBack = Callable[[Callable[[], object]], object]
"""``threads.Bridge.call``."""


def _at_once(call: Callable[[], object]) -> None:
    call()


def _tell(writes: Sequence[Write[Any]]) -> None:
    for write in writes:
        write.future.set_result(write.result)


class Committer:
    """Takes what waits, writes it in one transaction, and then resolves the futures of all.

    ``forgotten`` is called in the committer's thread with the ids of entries that are gone and had
    a file.  ``hand_back`` runs what it is given, in the thread of those who wait if there is one: this one
    would wake that one with the first result, and fight with it for the interpreter over the others.
    ``mark`` is the highest id that is reserved on the disk.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        forgotten: Callable[[Sequence[int]], object],
        hand_back: HandBack | None = None,
    ) -> None:
        self._db = db
        self._forgotten = forgotten
        self._hand_back = hand_back or _at_once
        self._requests: SimpleQueue[Sequence[Request] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._open = True
        self._log_octets = 0
        (self.mark,) = db.execute("SELECT value FROM mark WHERE name = 'issued'").fetchone()
        self._thread = threading.Thread(target=self._run, name="spool", daemon=True)

    def start(self) -> None:
        """Begin to serve what is handed over."""
        self._thread.start()

    def stop(self) -> None:
        """Finish what was handed over and end the thread; later requests fail."""
        with self._lock:
            self._open = False
            self._requests.put(None)
        self._thread.join()

    def put(self, request: Request) -> None:
        """Hand over a request. Never blocks."""
        self.put_all((request,))

    def put_all(self, requests: Sequence[Request]) -> None:
        """Hand over several, to be committed together if they fit. Never blocks."""
        with self._lock:
            if self._open:
                self._requests.put(requests)
                return
        for request in requests:
            request.future.set_exception(SpoolUnavailable("the spool is closed"))

    def _run(self) -> None:
        goes_on = True
        while goes_on:
            first = self._requests.get()
            if first is None:
                break
            batch, goes_on = self._take(first)
            self._serve(batch)
            self._checkpoint_when_due()

    def _take(self, first: Sequence[Request]) -> tuple[list[Request], bool]:
        """Everything that waits, within limits; and whether there may be more to come."""
        batch = list(first)
        octets = sum(map(_weight, first))
        while len(batch) < _BATCH_REQUESTS and octets < _BATCH_OCTETS:
            try:
                requests = self._requests.get_nowait()
            except Empty:
                break
            if requests is None:
                return batch, False
            batch += requests
            octets += sum(map(_weight, requests))
        return batch, True

    def _serve(self, batch: Sequence[Request]) -> None:
        writes = [request for request in batch if isinstance(request, Write)]
        if writes:
            self._write(writes)
        for request in batch:
            if isinstance(request, Call):
                self._call(request)

    def _write(self, writes: Sequence[Write[Any]]) -> None:
        try:
            self._apply(writes)
        except Exception as error:
            self._roll_back()
            if len(writes) > 1 and _is_its_own_fault(error):
                for write in writes:
                    self._write([write])
            else:
                failure = spool_error(error)
                for write in writes:
                    write.future.set_exception(failure)
            return
        self._hand_back(partial(_tell, writes))
        self._forget_files([number for write in writes for number in write.with_file])

    def _apply(self, writes: Sequence[Write[Any]]) -> None:
        """One statement in autocommit mode: it is committed and synced when the call returns.

        ``executemany``, for one row: after ``execute`` Python asks SQLite for the last row's id, gives the
        interpreter away for it, and waits behind a busy reactor until it has it back."""
        entries, contents, newest = _joined_entries(writes)
        mark = newest + MARK_AHEAD if newest > self.mark else 0
        gone = [number for write in writes for number in write.gone]
        row = (
            f"[{entries}]",
            contents,
            _joined([entry.recipients for write in writes for entry in write.entries]),
            _joined([write.finished for write in writes]),
            _joined([write.delayed for write in writes]),
            _joined([write.returned for write in writes]),
            json.dumps(gone),
            _joined([write.attempts for write in writes]),
            mark,
        )
        self._db.executemany(APPLY_BATCH, (row,))
        self.mark = mark or self.mark
        self._log_octets += len(contents) + _PAGE * (len(writes) + 4)

    def _call(self, call: Call[Any]) -> None:
        try:
            result = call.function(self._db)
        except Exception as error:
            self._roll_back()
            call.future.set_exception(spool_error(error))
        else:
            call.future.set_result(result)

    def _roll_back(self) -> None:
        # SQLite has already rolled back after most faults, and then says so.
        if self._db.in_transaction:
            try:
                self._db.execute("ROLLBACK")
            except sqlite3.Error:
                pass

    def _forget_files(self, candidates: Sequence[int]) -> None:
        if not candidates:
            return
        try:
            rows = self._db.execute(
                "SELECT value FROM json_each(?) WHERE value NOT IN (SELECT id FROM entry)",
                (json.dumps(candidates),),
            ).fetchall()
        except sqlite3.Error:
            return  # the files are orphans then, and the next start sweeps them
        if rows:
            self._forgotten([number for (number,) in rows])

    def _checkpoint_when_due(self) -> None:
        """Move the log into the database between batches, so that no commit waits for it."""
        if self._log_octets < _CHECKPOINT_OCTETS:
            return
        self._log_octets = 0
        try:
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        except sqlite3.Error:
            pass  # nothing is lost: the log grows until a later one succeeds, or a commit says FULL


def _weight(request: Request) -> int:
    if isinstance(request, Call):
        return 0
    return sum([len(entry.octets) for entry in request.entries if entry.octets is not None])


def _joined(rows: Sequence[str]) -> str:
    return f"[{','.join([row for row in rows if row])}]"


def _joined_entries(writes: Sequence[Write[Any]]) -> tuple[str, bytes, int]:
    """Rows of ``entry`` with the place of each content, all contents, and the highest id."""
    rows: list[str] = []
    # substr() counts from 1, and makes NULL of an empty piece of nothing: so there is an octet.
    pieces = [b"\0"]
    place, newest = 2, 0
    for write in writes:
        for entry in write.entries:
            newest = max(newest, entry.id)
            if entry.octets is None:
                rows.append(f"{entry.head},null,{entry.size}]")
            else:
                rows.append(f"{entry.head},{place},{entry.size}]")
                pieces.append(entry.octets)
                place += entry.size
    return ",".join(rows), b"".join(pieces), newest
