"""Who fetched and deleted what, when and from where: a bounded table, written behind."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

FILE_NAME = "pop3-history.sqlite"

MOST_SESSIONS = 100_000
"""Sessions that are kept; the oldest go first. One takes 200 octets and 25 for each message."""

MOST_MESSAGES = 1000
"""Unique ids kept of one session; beyond them only the count tells."""

MOST_UNWRITTEN = 10_000
"""Sessions that wait to be written; a disk that stands still costs history, not memory."""

_TABLE = """
CREATE TABLE IF NOT EXISTS session (
    number INTEGER PRIMARY KEY, ended REAL NOT NULL, user TEXT NOT NULL, client TEXT NOT NULL,
    tls INTEGER NOT NULL, ending TEXT NOT NULL, octets INTEGER NOT NULL,
    fetched_count INTEGER NOT NULL, fetched TEXT NOT NULL,
    deleted_count INTEGER NOT NULL, deleted TEXT NOT NULL, failed INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS session_user ON session (user, number);
"""


@dataclass(frozen=True, slots=True)
class Visit:
    """One session that fetched or deleted something.

    ``ended`` in seconds since the epoch; ``fetched`` and ``deleted`` are unique ids, at most
    ``MOST_MESSAGES`` of ``fetched_count`` and ``deleted_count``; ``failed`` of those to be deleted are
    still there.
    """

    ended: float
    user: str
    client: str
    tls: bool
    ending: str
    octets: int
    fetched_count: int
    fetched: Sequence[str]
    deleted_count: int
    deleted: Sequence[str]
    failed: int = 0


class History:
    """``add`` costs an append; ``write`` blocks and belongs in a thread. Nothing is opened before."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unwritten: list[Visit] = []

    def add(self, visit: Visit) -> None:
        """Remember a session; it is kept with the next ``write``."""
        if len(self._unwritten) < MOST_UNWRITTEN:
            self._unwritten.append(visit)

    def write(self) -> None:
        """Write what was added.

        Raises:
            sqlite3.Error, OSError: it cannot be written; it is tried again next time.
        """
        visits = list(self._unwritten)
        if not visits:
            return
        with closing(_opened(self._path)) as db:
            db.execute("BEGIN IMMEDIATE")
            db.executemany(
                "INSERT INTO session (ended, user, client, tls, ending, octets, fetched_count, fetched,"
                " deleted_count, deleted, failed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [_row(visit) for visit in visits],
            )
            db.execute(
                "DELETE FROM session WHERE number <= (SELECT max(number) FROM session) - ?", (MOST_SESSIONS,)
            )
            db.execute("COMMIT")
        del self._unwritten[: len(visits)]


def visits_of(path: Path, user: str, most: int) -> list[Visit]:
    """The last ``most`` sessions of an account, the newest first; none without a file.

    Raises:
        sqlite3.Error, OSError: the file cannot be read.
    """
    if not path.exists():
        return []
    with closing(sqlite3.connect(path, timeout=10.0)) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'session'").fetchone():
            return []  # a server makes the file in this moment
        rows = db.execute(
            "SELECT ended, user, client, tls, ending, octets, fetched_count, fetched, deleted_count, deleted,"
            " failed FROM session WHERE user = ? ORDER BY number DESC LIMIT ?",
            (user, most),
        ).fetchall()
    return [
        Visit(r[0], r[1], r[2], bool(r[3]), r[4], r[5], r[6], json.loads(r[7]), r[8], json.loads(r[9]), r[10])
        for r in rows
    ]


def _row(visit: Visit) -> tuple[object, ...]:
    return (
        visit.ended,
        visit.user,
        visit.client,
        visit.tls,
        visit.ending,
        visit.octets,
        visit.fetched_count,
        json.dumps(visit.fetched[:MOST_MESSAGES]),
        visit.deleted_count,
        json.dumps(visit.deleted[:MOST_MESSAGES]),
        visit.failed,
    )


def _opened(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    db = sqlite3.connect(path, timeout=10.0, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.executescript(_TABLE)
    return db
