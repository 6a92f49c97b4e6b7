"""Greylisting (RFC 6647): a network and sender domain that are new here are asked to come again."""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv4Address, ip_address, ip_network
from pathlib import Path

from mailserver.values.reply import Reply, reply
from mailserver.values.session import RecipientFacts

RETRY_WINDOW = 2 * 86400.0
"""Who comes again within so many seconds has passed; later it begins anew."""

REMEMBERED = 36 * 86400.0
"""How long somebody who passed need not wait again, counted from the last message."""

REFRESH = 86400.0
"""A pair that keeps coming is written once in this time, not with every message."""

MOST_PAIRS = 200_000
"""Pairs in memory; the one that came longest ago goes first."""

_SCHEMA = """
create table if not exists pair (
    key text primary key, first real not null, last real not null, passed integer not null
) without rowid
"""

Pair = tuple[float, float, bool]
"""When it was first and last seen, in seconds since the epoch, and whether it has passed."""


class Greylist:
    """A rule. All is decided in memory; ``write`` brings what changed to the disk, in a thread.

    Several processes share the file: each writes what it saw and reads what others wrote.
    """

    def __init__(self, path: Path, delay: float, now: Callable[[], float]) -> None:
        self._path = path
        self._delay = delay
        self._now = now
        self._pairs: OrderedDict[str, Pair] = OrderedDict()
        self._changed: dict[str, Pair] = {}
        self._read_until = 0.0

    def __call__(self, facts: RecipientFacts) -> Reply | None:
        session = facts.transaction.session
        if session.role != "smtp" or session.account is not None or session.trusted or session.exempt:
            return None
        if facts.forward_path.local.lower() == "postmaster":
            return None
        left = self.wait_for(session.client_host, facts.transaction.reverse_path.domain)
        if left <= 0:
            return None
        return reply(451, "4.7.1", f"New here: please try again in {int(left) + 1} seconds")

    def wait_for(self, host: str, domain: str) -> float:
        """Seconds that this client still has to wait with mail from this domain; 0 for those known."""
        key = pair_key(host, domain)
        now = self._now()
        first, last, passed = self._pairs.get(key, (now, 0.0, False))
        if (now - last > REMEMBERED) if passed else (now - first > RETRY_WINDOW):
            first, last, passed = now, 0.0, False
        left = 0.0 if passed else max(first + self._delay - now, 0.0)
        if passed != (left == 0) or now - last > REFRESH:
            last, passed = now, left == 0
            self._changed[key] = first, last, passed
        self._pairs[key] = first, last, passed
        self._pairs.move_to_end(key)
        if len(self._pairs) > MOST_PAIRS:
            self._pairs.popitem(last=False)
        return left

    def write(self) -> None:
        """Write what has changed, read what other processes wrote, forget what is old. Blocks.

        Raises:
            sqlite3.Error: the file cannot be used; what changed is kept for the next time.
        """
        changed, self._changed = self._changed, {}
        try:
            self._exchange(changed)
        except sqlite3.Error:
            self._changed = {**changed, **self._changed}
            raise

    def _exchange(self, changed: dict[str, Pair]) -> None:
        now = self._now()
        database = sqlite3.connect(self._path, timeout=5)
        try:
            with database:
                database.execute(_SCHEMA)
                database.executemany(
                    "insert into pair values (?, ?, ?, ?) on conflict (key) do update set "
                    "first = min(first, excluded.first), last = max(last, excluded.last), "
                    "passed = max(passed, excluded.passed)",
                    [(key, *pair) for key, pair in changed.items()],
                )
                database.execute(
                    "delete from pair where last < case passed when 1 then ? else ? end",
                    (now - REMEMBERED, now - RETRY_WINDOW),
                )
            rows = database.execute(
                "select key, first, last, passed from pair where last >= ? order by last limit ?",
                (self._read_until, MOST_PAIRS),
            ).fetchall()
        finally:
            database.close()
        self._read_until = now - 60.0  # others' clocks and commits may lag
        for key, first, last, passed in rows:
            known = self._pairs.get(key)
            if known is None or (passed and not known[2]):
                self._pairs[key] = first, last, bool(passed)


def pair_key(host: str, domain: str) -> str:
    """The /24 or /64 and the sender's domain: providers send a message again from a neighbour."""
    try:
        address = ip_address(host)
    except ValueError:
        return f"{host} {domain.lower()}"
    length = 24 if isinstance(address, IPv4Address) else 64
    return f"{ip_network((address, length), strict=False)} {domain.lower()}"
