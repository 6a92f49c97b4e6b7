"""Which recipients are due, and the leases under which they are given out."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mailserver.interfaces import ANY_LANE
from mailserver.spool.rows import WAITING_COLUMNS, envelope_from, waiting_from
from mailserver.spool.schema import NEVER
from mailserver.values.address import domain_key
from mailserver.values.content import Content
from mailserver.values.envelope import Entry, Waiting

RECIPIENTS_PER_ENTRY = 1000
"""Recipients of one message that one ``Entry`` holds; the others come with the next page."""

_RECIPIENTS_PER_PAGE = 10_000

_DUE = """
SELECT DISTINCT next_attempt, entry FROM recipient
WHERE lane = ? AND next_attempt IS NOT NULL AND next_attempt <= ?
  AND entry NOT IN (SELECT value FROM json_each(?))
ORDER BY next_attempt, entry LIMIT ?
"""
_NEXT_DUE = """
SELECT next_attempt FROM recipient WHERE lane = ? AND next_attempt IS NOT NULL ORDER BY next_attempt LIMIT 1
"""
_ENTRY = """
SELECT arrived, reverse_local, reverse_domain, parameters, size, content IS NULL, hold IS NOT NULL
FROM entry WHERE id = ?
"""
# One JSON text and not a row for each: every row would cost a turn with the GIL.
_RECIPIENTS = f"""
SELECT json_group_array(json_array({WAITING_COLUMNS})) FROM (
    SELECT {WAITING_COLUMNS} FROM recipient WHERE lane = ? AND next_attempt = ? AND entry = ?
    ORDER BY number LIMIT ?
)
"""
_WITH_PRIORITY = """
SELECT -(parameters ->> 'priority'), id FROM entry
WHERE parameters LIKE '%"priority":%' AND json_valid(parameters)
"""
_EXPEDITE = f"""
UPDATE recipient SET next_attempt = 0
WHERE next_attempt IS NOT NULL AND next_attempt < {NEVER!r} AND attempts > 0 AND domain_key(domain) = ?
RETURNING entry
"""
_LEASE = """
UPDATE recipient SET next_attempt = NULL WHERE lane = ? AND next_attempt = ? AND entry = ? AND number <= ?
"""
_SET_ASIDE_RECIPIENTS = f"""
UPDATE recipient SET next_attempt = {NEVER!r} WHERE lane = ? AND next_attempt = ? AND entry = ?
"""
_SET_ASIDE = "UPDATE entry SET hold = ? WHERE id = ?"

_END_HOLD = f"""
UPDATE entry SET hold = NULL
WHERE id = ? AND NOT EXISTS (SELECT 1 FROM recipient WHERE entry = id AND next_attempt >= {NEVER!r})
"""

_END_RECIPIENTS_HOLD = """
UPDATE recipient SET orders = json_remove(orders, '$.hold')
WHERE entry = ? AND next_attempt IS NULL AND orders LIKE '%"hold":%'
"""

ContentOf = Callable[[int, int, bool], Content]
"""``(entry, size, has a file)`` -> its content."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Who is wanted: due at ``now``, at most ``limit`` entries for each of ``lanes``, none of ``without``."""

    now: float
    limit: int
    lanes: tuple[int, ...]
    without: tuple[int, ...]


@dataclass(slots=True)
class _Page:
    """One entry's recipients on their way out."""

    number: int
    waiting: list[Waiting]


def expire_leases(db: sqlite3.Connection) -> None:
    """Make due what an earlier process had leased when it ended, the more urgent the earlier."""
    urgent = db.execute(_WITH_PRIORITY).fetchall()
    db.executemany("UPDATE recipient SET next_attempt = ? WHERE next_attempt IS NULL AND entry = ?", urgent)
    db.execute("UPDATE recipient SET next_attempt = 0 WHERE next_attempt IS NULL")


def next_due(db: sqlite3.Connection) -> float | None:
    """When the first recipient that waits falls due; seconds since the epoch."""
    rows = [db.execute(_NEXT_DUE, (lane,)).fetchone() for lane in ANY_LANE]
    times = [float(row[0]) for row in rows if row is not None and row[0] < NEVER]
    return min(times, default=None)


def expedite(db: sqlite3.Connection, domain: str) -> int:
    """Make due what waits for ``domain`` after an attempt; of how many entries. Nothing else is touched:
    what was never tried is kept back, or due anyway."""
    db.create_function("domain_key", 1, domain_key, deterministic=True)
    rows = db.execute(_EXPEDITE, (domain,)).fetchall()
    return len({entry for (entry,) in rows})


def lease_due(
    db: sqlite3.Connection, asked: Asked, content_of: ContentOf, recovered_before: int
) -> Sequence[Entry]:
    """Those who are wanted, each lane's in the order in which they fell due, leased in one commit.

    An entry that cannot be read back is held (``entry.hold`` says why) and stops nobody else.
    """
    without = json.dumps(asked.without)
    found = [
        (lane, when, number)
        for lane in asked.lanes
        for when, number in db.execute(_DUE, (lane, asked.now, without, asked.limit)).fetchall()
    ]
    if not found:
        return ()
    db.execute("BEGIN IMMEDIATE")
    pages: dict[int, _Page] = {}
    room = _RECIPIENTS_PER_PAGE
    for lane, when, number in found:
        page = pages.setdefault(number, _Page(number, []))
        wanted = min(room, RECIPIENTS_PER_ENTRY - len(page.waiting))
        if wanted > 0:
            room -= _lease(db, page, (lane, when), wanted)
    entries = list(_entries(db, pages.values(), content_of, recovered_before))
    db.execute("COMMIT")
    return entries


def _lease(db: sqlite3.Connection, page: _Page, due: tuple[int, float], wanted: int) -> int:
    """Add up to ``wanted`` recipients to ``page``; how many they were. ``due``: lane and time."""
    try:
        (text,) = db.execute(_RECIPIENTS, (*due, page.number, wanted)).fetchone()
        waiting = [waiting_from(row) for row in json.loads(text)]
        if not waiting:
            return 0  # somebody changed them since they were found
        last = waiting[-1].recipient.number
    except (ValueError, TypeError, LookupError, AttributeError, sqlite3.OperationalError) as error:
        _set_aside(db, page.number, f"its recipients cannot be read: {error}")
        db.execute(_SET_ASIDE_RECIPIENTS, (*due, page.number))
        return 0
    db.execute(_LEASE, (*due, page.number, last))
    if any(one.hold for one in waiting):  # until now, and now is over
        db.execute(_END_RECIPIENTS_HOLD, (page.number,))
    page.waiting += waiting
    return len(waiting)


def _set_aside(db: sqlite3.Connection, number: int, reason: str) -> None:
    db.execute(_SET_ASIDE, (f"set aside: {reason}", number))


def _entries(
    db: sqlite3.Connection, pages: Iterable[_Page], content_of: ContentOf, recovered_before: int
) -> Iterable[Entry]:
    for page in pages:
        if not page.waiting:
            continue
        waiting = tuple(page.waiting)
        try:
            row = db.execute(_ENTRY, (page.number,)).fetchone()
            arrived, local, domain, parameters, size, has_file, was_held = row
            envelope = envelope_from(local, domain, parameters, waiting)
        except (ValueError, TypeError, AttributeError, sqlite3.OperationalError) as error:
            _set_aside(db, page.number, f"its envelope cannot be read: {error}")
            for one in waiting:
                db.execute(
                    f"UPDATE recipient SET next_attempt = {NEVER!r} WHERE entry = ? AND number = ?",
                    (page.number, one.recipient.number),
                )
            continue
        if was_held:  # until now, and now is over
            db.execute(_END_HOLD, (page.number,))
        content = content_of(page.number, size, bool(has_file))
        yield Entry(page.number, arrived, envelope, waiting, content, page.number < recovered_before)
