"""Addresses that failed for good, by the account that wrote to them: known in memory, kept in SQLite.

A question costs a look into a dict.  Failures, and what commands or other workers changed, go to and come
from the file when ``write`` is called; a crash forgets the failures of the last seconds.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailserver.values.address import Address
from mailserver.values.reply import Reply, reply
from mailserver.values.session import RecipientFacts
from mailserver.values.text import printable

FILE_NAME = "suppressions.sqlite"
"""The file in the state folder."""

FOR_GOOD = frozenset({"5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1", "5.4.4"})
"""Failures that say something about the address itself; a full mailbox or a rule of the other side do not."""

MOST = 100_000
"""Addresses that are kept, the latest ones: about 20 MB in memory."""

_REASON_CHARACTERS = 300
_TABLE = """CREATE TABLE IF NOT EXISTS suppressed (
    account TEXT NOT NULL, address TEXT NOT NULL, since REAL NOT NULL, until REAL NOT NULL,
    status TEXT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (account, address)
) STRICT, WITHOUT ROWID"""
_PUT = "INSERT OR REPLACE INTO suppressed VALUES (?, ?, ?, ?, ?, ?)"
_PRUNE = f"""DELETE FROM suppressed WHERE until <= ?1 OR since < coalesce(
    (SELECT since FROM suppressed ORDER BY since DESC LIMIT 1 OFFSET {MOST}), 0)"""


@dataclass(frozen=True, slots=True)
class Suppressed:
    """``since`` and ``until`` in seconds since the epoch; ``reason`` what the other server said."""

    account: str
    address: str
    since: float
    until: float
    status: str
    reason: str


class Suppressions:
    """The list in the file at ``path``; nothing is opened before ``open``.

    ``add`` and ``rule`` belong to one thread; ``write`` blocks, and may run in another.  ``lasts`` is how
    many seconds an address stays; ``now`` gives seconds since the epoch.
    """

    def __init__(self, path: Path, lasts: float, now: Callable[[], float]) -> None:
        self._path = path
        self._lasts = lasts
        self._now = now
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], float] = {}
        self._unwritten: list[Suppressed] = []
        self._db: sqlite3.Connection | None = None
        self._version = -1

    def open(self) -> None:
        """Open the file, making it when it is absent.

        Raises:
            OSError, sqlite3.Error: it cannot be opened.
        """
        self._db = _connect(self._path)
        self.write()

    def close(self) -> None:
        """Write what is not written, and close. Harmless twice."""
        if self._db is not None:
            self.write()
            self._db.close()
            self._db = None

    def add(self, accounts: Sequence[Address], address: Address, status: str, reason: str) -> None:
        """An address has failed for good, for all who may have written to it."""
        now = self._now()
        for account in accounts:
            key = account_key(account), address_key(address)
            one = Suppressed(*key, now, now + self._lasts, status, printable(reason, _REASON_CHARACTERS))
            with self._lock:
                self._known[key] = one.until
                self._unwritten.append(one)

    def is_suppressed(self, account: Address, address: Address) -> bool:
        """Whether ``account`` is to be told at once that ``address`` fails."""
        if not self._known:
            return False
        return self._known.get((account_key(account), address_key(address)), 0.0) > self._now()

    def suppressed(self, facts: RecipientFacts) -> Reply | None:
        """The rule for RCPT: who logged in and wrote to such an address before is told at once."""
        account = facts.transaction.session.account
        if account is None or not self.is_suppressed(account.address, facts.forward_path):
            return None
        return reply(
            550,
            "5.1.1",
            f"<{printable(str(facts.forward_path))}>: your earlier message to this address failed for good;"
            " if it is right now, ask your postmaster to clear it (mailserver suppression clear)",
        )

    def write(self) -> None:
        """Write what is new, and read what others have changed."""
        if self._db is None:
            return
        with self._lock:
            new, self._unwritten = self._unwritten, []
        try:
            version = self._db.execute("PRAGMA data_version").fetchone()[0]
            if new:
                self._put(new)
            if version != self._version:
                self._read()
                self._version = version
        except BaseException:
            with self._lock:
                self._unwritten = new + self._unwritten
            raise

    def _put(self, new: Sequence[Suppressed]) -> None:
        assert self._db is not None
        rows = [(o.account, o.address, o.since, o.until, o.status, o.reason) for o in new]
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany(_PUT, rows)
            self._db.execute(_PRUNE, (self._now(),))
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise

    def _read(self) -> None:
        assert self._db is not None
        rows = self._db.execute(
            "SELECT account, address, until FROM suppressed WHERE until > ?", (self._now(),)
        ).fetchall()
        known = {(account, address): until for account, address, until in rows}
        with self._lock:
            known |= {(one.account, one.address): one.until for one in self._unwritten}
            self._known = known


def account_key(account: Address) -> str:
    """How an account is named in the list."""
    return str(account).lower()


def address_key(address: Address) -> str:
    """How an address is named in it: the other side alone knows whether case counts in its local part."""
    return "@".join(address.key).lower()


# -- for commands ----------------------------------------------------------------------------------


def listed(path: Path, now: float, account: Address | None = None) -> list[Suppressed]:
    """What is on the list, the latest first, of one account or of all.

    Raises:
        OSError, sqlite3.Error: the file cannot be read.
    """
    if not path.exists():
        return []
    where, given = ("", [now]) if account is None else (" AND account = ?", [now, account_key(account)])
    with closing(_connect(path)) as db:
        query = f"SELECT * FROM suppressed WHERE until > ?{where} ORDER BY since DESC, account, address"
        return [Suppressed(*row) for row in db.execute(query, given).fetchall()]


def clear(path: Path, account: Address | None, addresses: Sequence[Address]) -> int:
    """Forget ``addresses``, or all, of one account or of all; how many that were. Raises as ``listed``."""
    if not path.exists():
        return 0
    parts, given = ["1"], list[Any]()
    if account is not None:
        parts.append("account = ?")
        given.append(account_key(account))
    if addresses:
        parts.append(f"address IN ({','.join('?' * len(addresses))})")
        given += [address_key(address) for address in addresses]
    with closing(_connect(path)) as db:
        return db.execute(f"DELETE FROM suppressed WHERE {' AND '.join(parts)}", given).rowcount


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    db = sqlite3.connect(path, timeout=10.0, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost the last rows, not the file
    db.execute(_TABLE)
    return db
