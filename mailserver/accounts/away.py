"""Who has had an out-of-office answer from whom, and when: one in seven days."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from mailserver.values.account import Account
from mailserver.values.address import Address

FILE_NAME = "away.sqlite"
"""Its file in the state folder."""

AGAIN_SECONDS = 7 * 86400.0
"""How long nobody gets a second answer (RFC 5230 §4.1 asks for at least seven days by default)."""


class AnswersGiven:
    """Shared by all workers. Opens its file for each question; those are rare."""

    def __init__(self, path: Path, now: Callable[[], float]) -> None:
        self._path = path
        self._now = now

    def claim(self, account: Account, sender: Address) -> bool:
        """Whether ``sender`` is owed an answer; who is told so gives it. Blocks.

        Raises:
            sqlite3.Error, OSError: it cannot be known.
        """
        text = account.away.text if account.away is not None else ""
        begins = account.away.begins if account.away is not None else 0.0
        which = hashlib.sha256(f"{begins}\0{text}".encode()).hexdigest()[:16]
        key = (str(account.address).lower(), str(sender).lower(), which)
        now = self._now()
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(self._path, timeout=10.0, isolation_level=None)
        try:
            db.execute(
                "CREATE TABLE IF NOT EXISTS answer (account TEXT, sender TEXT, which TEXT, given REAL,"
                " PRIMARY KEY (account, sender, which)) WITHOUT ROWID"
            )
            db.execute("BEGIN IMMEDIATE")
            db.execute("DELETE FROM answer WHERE given < ?", (now - AGAIN_SECONDS,))
            claimed = db.execute("INSERT OR IGNORE INTO answer VALUES (?, ?, ?, ?)", (*key, now))
            db.execute("COMMIT")
            return claimed.rowcount > 0
        finally:
            db.close()
