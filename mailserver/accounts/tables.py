"""The directory's tables in SQLite: their schema, and how a connection is opened."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

VERSION = 5
"""PRAGMA user_version of the schema below."""

_SCHEMA = (
    # local and domain are as the administrator wrote them; the keys are what is compared. id gives
    # the order in which accounts were made.
    """CREATE TABLE account (
        id INTEGER PRIMARY KEY,
        domain_key TEXT NOT NULL, local_key TEXT NOT NULL,
        local TEXT NOT NULL, domain TEXT NOT NULL,
        password TEXT NOT NULL, format TEXT NOT NULL DEFAULT '',
        UNIQUE (local_key, domain_key)
    )""",
    """CREATE TABLE alias (
        id INTEGER PRIMARY KEY,
        domain_key TEXT NOT NULL, local_key TEXT NOT NULL,
        local TEXT NOT NULL, domain TEXT NOT NULL,
        UNIQUE (local_key, domain_key)
    )""",
    """CREATE TABLE target (
        alias INTEGER NOT NULL REFERENCES alias ON DELETE CASCADE,
        number INTEGER NOT NULL, local TEXT NOT NULL, domain TEXT NOT NULL,
        PRIMARY KEY (alias, number)
    ) WITHOUT ROWID""",
    "PRAGMA user_version = 1",
)

# What each later version adds: (statements that lead from version 1 to 2), …
_STEPS = (
    (
        # scram and send_as are JSON; sealed is what CRAM-MD5 needs (accounts/secrets.py).
        "ALTER TABLE account ADD COLUMN scram TEXT NOT NULL DEFAULT '{}'",
        "ALTER TABLE account ADD COLUMN sealed TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE account ADD COLUMN send_as TEXT NOT NULL DEFAULT '[]'",
        "PRAGMA user_version = 2",
    ),
    (
        "ALTER TABLE account ADD COLUMN language TEXT NOT NULL DEFAULT ''",
        "PRAGMA user_version = 3",
    ),
    (
        # deliver: see values/deliveries.py; away: JSON or ''. until: seconds since the epoch, NULL for none.
        "ALTER TABLE account ADD COLUMN deliver TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE account ADD COLUMN away TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE alias ADD COLUMN until REAL",
        "ALTER TABLE alias ADD COLUMN owner TEXT NOT NULL DEFAULT ''",
        "CREATE INDEX alias_until ON alias (until) WHERE until IS NOT NULL",
        # added: by a command, and not by the configuration. catch_all: an address, '*' or ''.
        """CREATE TABLE domain (
            domain_key TEXT PRIMARY KEY, domain TEXT NOT NULL, added INTEGER NOT NULL DEFAULT 0,
            catch_all TEXT NOT NULL DEFAULT '', deliver TEXT NOT NULL DEFAULT ''
        ) WITHOUT ROWID""",
        # owners: a JSON array of addresses; posters: members, owners or anybody.
        """CREATE TABLE list (
            id INTEGER PRIMARY KEY,
            domain_key TEXT NOT NULL, local_key TEXT NOT NULL,
            local TEXT NOT NULL, domain TEXT NOT NULL,
            owners TEXT NOT NULL, posters TEXT NOT NULL, title TEXT NOT NULL DEFAULT '',
            open INTEGER NOT NULL DEFAULT 0,
            UNIQUE (local_key, domain_key)
        )""",
        # bounces: how many days in a row mail came back, the last of them in bounced (days since the epoch).
        """CREATE TABLE member (
            list INTEGER NOT NULL REFERENCES list ON DELETE CASCADE,
            local_key TEXT NOT NULL, domain_key TEXT NOT NULL,
            local TEXT NOT NULL, domain TEXT NOT NULL,
            bounces INTEGER NOT NULL DEFAULT 0, bounced INTEGER NOT NULL DEFAULT 0,
            PRIMARY KEY (list, local_key, domain_key)
        ) WITHOUT ROWID""",
        "PRAGMA user_version = 4",
    ),
    (
        # quota: octets, 0 for no limit, NULL for what the configuration says.
        "ALTER TABLE account ADD COLUMN quota INTEGER",
        "PRAGMA user_version = 5",
    ),
)


class NewerSchema(Exception):
    """The file was made by a later version of this program."""


def connect(path: Path, patience: float) -> sqlite3.Connection:
    """Open the file, making it (0600) and its folder (0700) when they are absent.

    ``patience`` is how many seconds to wait for somebody who writes.  The connection may go from
    thread to thread; whoever owns it sees to it that only one uses it at a time.

    Raises:
        OSError, sqlite3.Error: the file cannot be made or opened.
        NewerSchema: a later version made it.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # SQLite gives a new file the umask's mode, and its WAL the mode of the file.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, timeout=patience, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    if _version(connection) < VERSION:
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Somebody else may have made the tables while this connection waited.
            for statements in (_SCHEMA, *_STEPS)[_version(connection) :]:
                for statement in statements:
                    connection.execute(statement)
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
    if (found := _version(connection)) > VERSION:
        raise NewerSchema(f"{path} has schema {found}, this program knows {VERSION}; install a later one")
