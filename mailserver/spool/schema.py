"""The spool's tables, and the one statement that changes them for a whole batch of requests."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

VERSION = 1
"""``PRAGMA user_version`` of a spool file that this code understands."""


class SpoolUnusable(Exception):
    """The spool cannot be opened; the text tells the administrator why and what helps."""


NEVER = 1e15
"""A ``next_attempt`` (seconds since the epoch) that no clock reaches: held, or set aside."""

_BUSY_SECONDS = 10.0
_CACHE_KIB = 16 * 1024
_BACKSTOP_PAGES = 16_000  # only if the committer's own checkpoints keep failing

# ``content`` stands last: the columns before it are read without touching its overflow pages.
# NULL content means that the message has a file of its own.  ``hold`` (why) and ``class`` (of
# traffic) wait for those who will fill them; a history of attempts gets a table of its own.
#
# ``next_attempt`` is NULL while the recipient is leased, so the index holds only those who wait
# and a message that is delivered at once never touches it.
_TABLES = """
BEGIN;
CREATE TABLE entry (
    id INTEGER PRIMARY KEY,
    arrived REAL NOT NULL,
    reverse_local TEXT NOT NULL,
    reverse_domain TEXT NOT NULL,
    parameters TEXT NOT NULL,
    hold TEXT,
    class INTEGER NOT NULL DEFAULT 0,
    size INTEGER NOT NULL,
    content BLOB
) STRICT;
CREATE TABLE recipient (
    entry INTEGER NOT NULL,
    number INTEGER NOT NULL,
    next_attempt REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    warned INTEGER NOT NULL DEFAULT 0,
    local TEXT NOT NULL,
    domain TEXT NOT NULL,
    original_local TEXT,
    original_domain TEXT,
    orcpt TEXT NOT NULL,
    notify TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (entry, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE mark (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO mark VALUES ('issued', 0);
PRAGMA user_version = 1;
COMMIT;
"""

# What came later, for files of any age: whoever knows nothing of it is not disturbed by it.
#
# ``lane`` tells recipients apart whose way out was full, so that those who wait for another are found
# without looking at these; 0: not known yet.  ``attempt`` keeps the last tries of messages that wait.
_LATER = """
BEGIN;
ALTER TABLE recipient ADD COLUMN lane INTEGER NOT NULL DEFAULT 0;
DROP INDEX IF EXISTS recipient_due;
CREATE INDEX recipient_lane_due ON recipient (lane, next_attempt, entry, number)
    WHERE next_attempt IS NOT NULL;
CREATE TABLE attempt (number INTEGER PRIMARY KEY, entry INTEGER NOT NULL, facts TEXT NOT NULL) STRICT;
CREATE INDEX attempt_entry ON attempt (entry);
COMMIT;
"""

_ORDERS = "ALTER TABLE recipient ADD COLUMN orders TEXT NOT NULL DEFAULT ''"
"""An operator's orders for single recipients, as JSON, or ``''``: ``hold``, ``bounce``, ``route``."""

_HAS_LANES = "SELECT 1 FROM pragma_table_info('recipient') WHERE name = 'lane'"
_HAS_ORDERS = "SELECT 1 FROM pragma_table_info('recipient') WHERE name = 'orders'"

ATTEMPTS_KEPT = 20
"""Tries of one message that are remembered, the last ones."""

# A stored procedure, as SQLite can have one: the trigger runs once for each inserted row, and the
# row carries a whole batch as JSON arrays.  In autocommit mode this is one transaction and one
# call, so the thread that commits must win back the GIL from a busy reactor once, not for each of
# six statements (each may cost it sys.getswitchinterval()).  It lives in the connection, not in
# the file.
_PROCEDURE = (
    """
CREATE TEMP VIEW batch AS
    SELECT 0 AS entries, 0 AS contents, 0 AS recipients, 0 AS finished, 0 AS delayed, 0 AS returned,
           0 AS gone, 0 AS attempts, 0 AS issued
""",
    """
CREATE TEMP TRIGGER apply_batch INSTEAD OF INSERT ON batch BEGIN
    INSERT INTO entry (id, arrived, reverse_local, reverse_domain, parameters, hold, content, size)
        SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5,
               substr(NEW.contents, value ->> 6, value ->> 7), value ->> 7
        FROM json_each(NEW.entries);
    INSERT INTO recipient (entry, number, local, domain, original_local, original_domain, orcpt, notify,
                           next_attempt)
        SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
               value ->> 7, value ->> 8
        FROM json_each(NEW.recipients);
    DELETE FROM recipient
        WHERE (entry, number) IN (SELECT value ->> 0, value ->> 1 FROM json_each(NEW.finished));
    UPDATE recipient
        SET next_attempt = given.retry_at, attempts = attempts + 1, reason = given.reason,
            warned = max(recipient.warned, given.warned)
        FROM (SELECT value ->> 0 AS entry, value ->> 1 AS number, value ->> 2 AS retry_at,
                     value ->> 3 AS reason, value ->> 4 AS warned
              FROM json_each(NEW.delayed)) AS given
        WHERE recipient.entry = given.entry AND recipient.number = given.number;
    UPDATE recipient SET next_attempt = given.due_at, lane = given.lane
        FROM (SELECT value ->> 0 AS entry, value ->> 1 AS number, value ->> 2 AS due_at, value ->> 3 AS lane
              FROM json_each(NEW.returned)) AS given
        WHERE recipient.entry = given.entry AND recipient.number = given.number
          AND recipient.next_attempt IS NULL;
    INSERT INTO attempt (entry, facts)
        SELECT value ->> 0, value ->> 1 FROM json_each(NEW.attempts)
        WHERE EXISTS (SELECT 1 FROM entry WHERE entry.id = value ->> 0);
    DELETE FROM attempt
        WHERE entry IN (SELECT value ->> 0 FROM json_each(NEW.attempts))
          AND number <= (SELECT number FROM attempt AS newer WHERE newer.entry = attempt.entry
                         ORDER BY number DESC LIMIT 1 OFFSET {ATTEMPTS_KEPT});
    DELETE FROM entry
        WHERE id IN (SELECT value FROM json_each(NEW.gone))
          AND NOT EXISTS (SELECT 1 FROM recipient WHERE recipient.entry = entry.id);
    DELETE FROM attempt
        WHERE entry IN (SELECT value FROM json_each(NEW.gone))
          AND NOT EXISTS (SELECT 1 FROM entry WHERE entry.id = attempt.entry);
    UPDATE mark SET value = NEW.issued WHERE name = 'issued' AND value < NEW.issued;
END
""",
)

APPLY_BATCH = "INSERT INTO batch VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
"""Parameters: JSON arrays of entries, the contents joined, recipients, finished ``[entry, number]``,
delayed ``[entry, number, retry_at, reason, warned]``, returned ``[entry, number, due_at, lane]``, ids
of entries that may be gone, attempts ``[entry, facts]``, and the highest id that may have been given out
(0: no news)."""


def spool_path(folder: Path, worker: int) -> Path:
    """The database of one worker process."""
    return folder / f"spool-{worker}.sqlite"


def bodies_path(folder: Path, worker: int) -> Path:
    """The folder of large contents, each in a file named by its queue id."""
    return folder / f"bodies-{worker}"


def lock_path(folder: Path, worker: int) -> Path:
    """The file that the one process which serves this spool keeps locked (flock)."""
    return folder / f"spool-{worker}.lock"


def spool_workers(folder: Path) -> list[int]:
    """The numbers of the workers that have a spool below ``folder``, in order."""
    names = [path.stem.removeprefix("spool-") for path in folder.glob("spool-*.sqlite")]
    return sorted(int(name) for name in names if name.isascii() and name.isdigit())


def connect(path: Path) -> sqlite3.Connection:
    """A connection in autocommit mode with our settings; the file must exist.

    Raises:
        sqlite3.Error: it is not a database, or cannot be read.
    """
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA temp_store = MEMORY")
    except BaseException:
        db.close()
        raise
    return db


def open_for_writing(path: Path) -> sqlite3.Connection:
    """The committer's connection: tables made where they are missing, the batch statement ready.

    Raises:
        SpoolUnusable: the file was made by a newer version.
        sqlite3.Error: it is not a database, or the disk fails.
        OSError: it cannot be made.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    db = connect(path)
    try:
        check_version(db, path)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        db.execute(f"PRAGMA wal_autocheckpoint = {_BACKSTOP_PAGES}")
        if not version_of(db):
            db.executescript(_TABLES)
        bring_up_to_date(db)
        for statement in _PROCEDURE:
            db.execute(statement.replace("{ATTEMPTS_KEPT}", str(ATTEMPTS_KEPT)))
    except BaseException:
        db.close()
        raise
    return db


def bring_up_to_date(db: sqlite3.Connection) -> None:
    """Add to a file what came later. Harmless twice; whoever opens it first does it.

    Raises:
        sqlite3.Error: the file cannot be written.
    """
    if not db.execute(_HAS_LANES).fetchone():
        db.executescript(_LATER)
    if not db.execute(_HAS_ORDERS).fetchone():
        try:
            db.execute(_ORDERS)
        except sqlite3.OperationalError:
            if not db.execute(_HAS_ORDERS).fetchone():  # else somebody was faster
                raise


def version_of(db: sqlite3.Connection) -> int:
    """``PRAGMA user_version``; 0 for a file without tables."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return int(version)


def check_version(db: sqlite3.Connection, path: Path) -> None:
    """Refuse a file that a newer version of this program has made.

    Raises:
        SpoolUnusable: with a text for the administrator.
    """
    version = version_of(db)
    if version > VERSION:
        raise SpoolUnusable(
            f"{path} has schema version {version} and this program knows {VERSION}: it was written by a newer"
            " mailserver; run that one, or let it empty the queue first"
        )
