"""How much each account sends: counted in memory, written behind, shared by all workers.

A count costs no database call; what a process has not written when it is killed (a few seconds'
worth) is forgotten.  Workers hear of each other's counts when they write their own.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from mailserver.values.address import Address

FILE_NAME = "usage.sqlite"
"""The file in the state folder."""

BUCKET_SECONDS = 300
_HOUR, _DAY = 3600 // BUCKET_SECONDS, 86400 // BUCKET_SECONDS

MOST_ACCOUNTS = 5000
"""Accounts in memory; the one that sent nothing for the longest time is read again when it does."""

MOST_KNOWN = 20_000
"""Recipients that are remembered of one account, the latest ones: 8 octets each, 80 in memory."""

_TABLES = (
    """CREATE TABLE IF NOT EXISTS usage (
        account TEXT NOT NULL, bucket INTEGER NOT NULL,
        messages INTEGER NOT NULL, recipients INTEGER NOT NULL, fresh INTEGER NOT NULL,
        PRIMARY KEY (account, bucket)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS known (
        number INTEGER PRIMARY KEY, account TEXT NOT NULL, recipient INTEGER NOT NULL,
        UNIQUE (account, recipient)
    ) STRICT""",
    "CREATE TABLE IF NOT EXISTS held (account TEXT PRIMARY KEY, reason TEXT NOT NULL) STRICT, WITHOUT ROWID",
)
_ADD = """INSERT INTO usage VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    messages = messages + excluded.messages, recipients = recipients + excluded.recipients,
    fresh = fresh + excluded.fresh"""
_PRUNE_KNOWN = """DELETE FROM known WHERE account = ? AND number <= (
    SELECT number FROM known WHERE account = ? ORDER BY number DESC LIMIT 1 OFFSET ?)"""

_Counts = tuple[int, int, int]  # messages, recipients, recipients that were new


@dataclass(frozen=True, slots=True)
class UsageLimits:
    """0 is no limit."""

    messages_per_hour: int = 0
    recipients_per_hour: int = 0
    new_recipients_per_day: int = 0


@dataclass(slots=True)
class _Tally:
    """One account, as all workers know it (``counts`` by bucket), and what only we know yet."""

    counts: dict[int, _Counts]
    known: set[int]
    hold: str
    unwritten: dict[int, _Counts] = field(default_factory=dict)
    unwritten_known: list[int] = field(default_factory=list)
    hold_unwritten: bool = False
    is_busy: bool = False

    def add(self, bucket: int, recipients: int, fresh: Sequence[int]) -> None:
        for counts in (self.counts, self.unwritten):
            messages, others, new = counts.get(bucket, (0, 0, 0))
            counts[bucket] = messages + 1, others + recipients, new + len(fresh)
        self.known.update(fresh)
        self.unwritten_known += fresh

    def sums(self, bucket: int) -> _Counts:
        messages = recipients = new = 0
        for when, counts in self.counts.items():
            if when > bucket - _HOUR:
                messages += counts[0]
                recipients += counts[1]
            if when > bucket - _DAY:
                new += counts[2]
        return messages, recipients, new


class Usage:
    """The counts of all accounts, in the SQLite file at ``path``; nothing is opened before ``open``.

    ``charge`` and ``is_loaded`` belong to one thread; ``load`` and ``write`` block, and may run in
    others.  ``now`` gives seconds since the epoch.
    """

    def __init__(self, path: Path, limits: UsageLimits, now: Callable[[], float]) -> None:
        self._path = path
        self._limits = limits
        self._now = now
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._tallies: OrderedDict[str, _Tally] = OrderedDict()
        self._changed: set[str] = set()
        self._untold: set[str] = set()
        self._db: sqlite3.Connection | None = None
        self._version = -1

    def open(self) -> None:
        """Open the file, making it when it is absent.

        Raises:
            OSError, sqlite3.Error: it cannot be opened.
        """
        self._db = _connect(self._path)
        self._db.execute("DELETE FROM usage WHERE bucket < ?", (self._bucket() - _DAY,))
        self._version = self._data_version()

    def close(self) -> None:
        """Write what is not written, and close. Harmless twice."""
        if self._db is not None:
            self.write()
            self._db.close()
            self._db = None

    # -- counting --------------------------------------------------------------------------------

    def is_loaded(self, account: str) -> bool:
        """Whether ``charge`` may be asked about ``account``; else ``load`` it first."""
        return account in self._tallies

    def charge(self, account: str, recipients: Iterable[Address]) -> str:
        """Count one message; why it is to be held, or ``""``."""
        with self._lock:
            tally = self._tallies[account]
            self._tallies.move_to_end(account)
            numbers = {_number(address) for address in recipients}
            bucket = self._bucket()
            tally.add(bucket, len(numbers), [n for n in numbers if n not in tally.known])
            self._changed.add(account)
            tally.is_busy = True
            if not tally.hold and (reason := self._excess(tally.sums(bucket))):
                tally.hold = f"{account} {reason}"
                tally.hold_unwritten = True
                self._untold.add(account)
            return tally.hold

    def is_news(self, account: str) -> bool:
        """Whether the hold on ``account`` began with us and nobody was told yet; true once."""
        with self._lock:
            if account not in self._untold:
                return False
            self._untold.remove(account)
            return True

    def _excess(self, sums: _Counts) -> str:
        limits = self._limits
        for count, limit, what in (
            (sums[0], limits.messages_per_hour, "has sent more than {} messages in an hour"),
            (sums[1], limits.recipients_per_hour, "has sent to more than {} recipients in an hour"),
            (sums[2], limits.new_recipients_per_day, "has sent to more than {} new recipients in a day"),
        ):
            if limit and count > limit:
                return what.format(limit)
        return ""

    def _bucket(self) -> int:
        return int(self._now() // BUCKET_SECONDS)

    # -- the file --------------------------------------------------------------------------------

    def load(self, account: str) -> None:
        """Read what is known of ``account``. Blocks.

        Raises:
            sqlite3.Error: the file cannot be read.
        """
        with self._writing:
            tally = self._read(account)
        with self._lock:
            self._tallies.setdefault(account, tally)
            self._forget_the_idle()

    def _forget_the_idle(self) -> None:
        while len(self._tallies) > MOST_ACCOUNTS:
            oldest, tally = next(iter(self._tallies.items()))
            if tally.is_busy:
                return  # there is room after the next write
            del self._tallies[oldest]

    def write(self) -> None:
        """Write what is new, and hear of what others wrote. Blocks.

        Raises:
            sqlite3.Error: nothing was written; it is kept for the next time.
        """
        with self._writing:
            with self._lock:
                changed, self._changed = self._changed, set()
                taken = {name: _take(self._tallies[name]) for name in changed}
            try:
                self._store(taken)
            except BaseException:
                with self._lock:
                    self._changed |= changed
                    for name, part in taken.items():
                        _give_back(self._tallies[name], part)
                raise
            with self._lock:
                for name in taken:
                    self._tallies[name].is_busy = name in self._changed
            self._hear()

    def _store(self, taken: dict[str, _Tally]) -> None:
        db = self._opened()
        if not taken:
            return
        db.execute("BEGIN IMMEDIATE")
        try:
            for account, part in taken.items():
                db.executemany(_ADD, [(account, when, *counts) for when, counts in part.unwritten.items()])
                db.executemany(
                    "INSERT OR IGNORE INTO known (account, recipient) VALUES (?, ?)",
                    [(account, number) for number in part.unwritten_known],
                )
                if part.unwritten_known:
                    db.execute(_PRUNE_KNOWN, (account, account, MOST_KNOWN))
                if part.hold_unwritten:
                    db.execute("INSERT OR IGNORE INTO held VALUES (?, ?)", (account, part.hold))
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise

    def _hear(self) -> None:
        """Take over what other workers and commands have written since the last time."""
        version = self._data_version()
        if version == self._version:
            return
        self._version = version
        with self._lock:
            accounts = list(self._tallies)
        for account in accounts:
            tally = self._read(account)
            with self._lock:
                if account in self._tallies:
                    _merge(self._tallies[account], tally)

    def _data_version(self) -> int:
        ((version,),) = self._opened().execute("PRAGMA data_version").fetchall()
        return int(version)

    def _read(self, account: str) -> _Tally:
        db = self._opened()
        since = self._bucket() - _DAY
        rows = db.execute(
            "SELECT bucket, messages, recipients, fresh FROM usage WHERE account = ? AND bucket > ?",
            (account, since),
        ).fetchall()
        known = db.execute("SELECT recipient FROM known WHERE account = ?", (account,)).fetchall()
        held = db.execute("SELECT reason FROM held WHERE account = ?", (account,)).fetchone()
        return _Tally({row[0]: row[1:] for row in rows}, {row[0] for row in known}, held[0] if held else "")

    def _opened(self) -> sqlite3.Connection:
        if self._db is None:
            raise sqlite3.ProgrammingError(f"{self._path} is not open")
        return self._db


def end_hold(path: Path, account: str) -> bool:
    """Let an account send again, with its counts at nothing; whether it was held. For commands.

    Raises:
        OSError, sqlite3.Error: the file cannot be written.
    """
    if not path.exists():
        return False
    with closing(_connect(path)) as db:
        db.execute("BEGIN IMMEDIATE")
        ended = db.execute("DELETE FROM held WHERE account = ?", (account,)).rowcount
        if ended:
            db.execute("DELETE FROM usage WHERE account = ?", (account,))
        db.execute("COMMIT")
    return bool(ended)


def held_accounts(path: Path) -> dict[str, str]:
    """The accounts that are held, and why. For commands; raises as ``end_hold``."""
    if not path.exists():
        return {}
    with closing(_connect(path)) as db:
        return dict(db.execute("SELECT account, reason FROM held ORDER BY account").fetchall())


def _connect(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    db = sqlite3.connect(path, timeout=10.0, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")  # a power cut may cost the last counts, not the file
    for table in _TABLES:
        db.execute(table)
    return db


def _take(tally: _Tally) -> _Tally:
    """What is unwritten, which from now on counts as written."""
    part = _Tally({}, set(), tally.hold, tally.unwritten, tally.unwritten_known, tally.hold_unwritten)
    tally.unwritten, tally.unwritten_known, tally.hold_unwritten = {}, [], False
    return part


def _give_back(tally: _Tally, part: _Tally) -> None:
    for when, counts in part.unwritten.items():
        tally.unwritten[when] = _sum(tally.unwritten.get(when, (0, 0, 0)), counts)
    tally.unwritten_known += part.unwritten_known
    tally.hold_unwritten = tally.hold_unwritten or part.hold_unwritten


def _merge(ours: _Tally, read: _Tally) -> None:
    """Take over what was ``read``, and keep what only we know."""
    ours.counts, ours.known = read.counts, read.known
    for when, counts in ours.unwritten.items():
        ours.counts[when] = _sum(ours.counts.get(when, (0, 0, 0)), counts)
    ours.known.update(ours.unwritten_known)
    if not ours.hold_unwritten:
        ours.hold = read.hold


def _sum(a: _Counts, b: _Counts) -> _Counts:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def _number(address: Address) -> int:
    text = "@".join(address.key).lower().encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big", signed=True)
