"""What an operator orders of waiting messages, as SQL on one spool: hold, retry, return, remove and the like.

An order for whole messages is kept in ``entry``; one for some recipients in ``recipient.orders``, as JSON.
Leased recipients are left alone: they are being tried already, and meet an order at their next attempt.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from mailserver.spool.schema import NEVER
from mailserver.spool.selection import Selection

_HAS_HOLD = """orders LIKE '%"hold":%'"""
_HELD_WHOLE = "entry IN (SELECT id FROM entry WHERE hold IS NOT NULL)"
_TOO_EARLY = """entry IN (
    SELECT id FROM entry WHERE json_extract(parameters, '$.release_at') > CAST(strftime('%s', 'now') AS REAL)
)"""
_NOT_HELD = f"next_attempt < {NEVER!r} AND NOT {_HAS_HOLD} AND NOT {_HELD_WHOLE} AND NOT {_TOO_EARLY}"
_WITHOUT_HOLD = f"CASE WHEN {_HAS_HOLD} THEN json_remove(orders, '$.hold') ELSE orders END"
_WITH = "json_set(iif(orders = '', '{{}}', orders), '$.{}', ?)"
_STILL_HELD = f"EXISTS (SELECT 1 FROM recipient WHERE entry = id AND next_attempt >= {NEVER!r})"


@dataclass(frozen=True, slots=True)
class Changed:
    """Whom an order has reached: the messages, and how many of their recipients."""

    messages: frozenset[int] = frozenset()
    recipients: int = 0
    with_file: frozenset[int] = frozenset()
    """Messages that are gone and leave a file behind."""
    removed: tuple[tuple[int, int], ...] = ()
    """Message and number of each recipient that is gone."""

    def __add__(self, other: Changed) -> Changed:
        return Changed(
            self.messages | other.messages,
            self.recipients + other.recipients,
            self.with_file | other.with_file,
            self.removed + other.removed,
        )


Order = Callable[[sqlite3.Connection, Selection], Changed]


def retry(db: sqlite3.Connection, selection: Selection) -> Changed:
    """Make due now. Only naming messages by their numbers releases what is held or set aside, or sends early
    what its sender wanted to leave later: an undo window holds."""
    named = bool(selection.numbers)
    changed = _update(
        db, selection, f"next_attempt = 0, orders = {_WITHOUT_HOLD}", [], "1" if named else _NOT_HELD
    )
    if named:
        _end_holds(db, changed, whole=not selection.is_by_recipient)
    return changed


def release(db: sqlite3.Connection, selection: Selection) -> Changed:
    """Make due now what is held, and nothing else."""
    held = f"({_HAS_HOLD} OR {_HELD_WHOLE})"
    changed = _update(db, selection, f"next_attempt = 0, orders = {_WITHOUT_HOLD}", [], held)
    _end_holds(db, changed, whole=not selection.is_by_recipient)
    return changed


def hold(reason: str, until: float = 0.0) -> Order:
    """Keep back, for good or ``until`` (seconds since the epoch)."""

    def order(db: sqlite3.Connection, selection: Selection) -> Changed:
        when = until or NEVER
        if selection.is_by_recipient:
            return _update(
                db, selection, f"next_attempt = {when!r}, orders = {_WITH.format('hold')}", [reason]
            )
        changed = _update(db, selection, f"next_attempt = {when!r}", [])
        _on_entries(db, changed, "hold = ?", reason)
        return changed

    return order


def bounce(reason: str) -> Order:
    """Return to the sender, for this reason."""
    return _standing("bounce", reason)


def reroute(url: str) -> Order:
    """Send by this next hop, now and at each further attempt."""
    return _standing("route", url)


def _standing(what: str, words: str) -> Order:
    def order(db: sqlite3.Connection, selection: Selection) -> Changed:
        if selection.is_by_recipient:
            given = f"next_attempt = 0, orders = json_remove({_WITH.format(what)}, '$.hold')"
            return _update(db, selection, given, [words])
        changed = _update(db, selection, "next_attempt = 0", [])
        _on_entries(db, changed, f"parameters = json_set(parameters, '$.{what}', ?), hold = NULL", words)
        return changed

    return order


def remove(db: sqlite3.Connection, selection: Selection) -> Changed:
    """Remove, leased recipients too; no report is made. The attempt that is under way is not stopped: it
    may still deliver, and a failure that it meets may still be reported, but nothing is tried again."""
    condition, given = selection.recipients()
    rows = db.execute(f"DELETE FROM recipient WHERE {condition} RETURNING entry, number", given).fetchall()
    ids = frozenset(entry for entry, _ in rows)
    if not selection.is_by_recipient:
        ids |= frozenset(selection.numbers)  # also one that has nobody left
    text = json.dumps(sorted(ids))
    gone = db.execute(
        """DELETE FROM entry WHERE id IN (SELECT value FROM json_each(?))
        AND NOT EXISTS (SELECT 1 FROM recipient WHERE entry = id) RETURNING id, content IS NULL""",
        (text,),
    ).fetchall()
    db.execute(
        """DELETE FROM attempt WHERE entry IN (SELECT value FROM json_each(?))
        AND NOT EXISTS (SELECT 1 FROM entry WHERE id = attempt.entry)""",
        (text,),
    )
    removed = frozenset(number for number, _ in gone)
    touched = removed | frozenset(entry for entry, _ in rows)
    with_file = frozenset(number for number, has_file in gone if has_file)
    return Changed(touched, len(rows), with_file, tuple(rows))


def _update(
    db: sqlite3.Connection, selection: Selection, what: str, values: list[str], also: str = "1"
) -> Changed:
    condition, given = selection.recipients()
    rows = db.execute(
        f"UPDATE recipient SET {what} WHERE next_attempt IS NOT NULL AND {also} AND {condition}"
        " RETURNING entry",
        [*values, *given],
    ).fetchall()
    return Changed(frozenset(number for (number,) in rows), len(rows))


def _on_entries(db: sqlite3.Connection, changed: Changed, what: str, words: str) -> None:
    db.execute(
        f"UPDATE entry SET {what} WHERE id IN (SELECT value FROM json_each(?))",
        (words, json.dumps(sorted(changed.messages))),
    )


def _end_holds(db: sqlite3.Connection, changed: Changed, whole: bool) -> None:
    """The words of a hold go with it; they stay while other recipients of the message are held."""
    still = "" if whole else f" AND NOT {_STILL_HELD}"
    db.execute(
        "UPDATE entry SET hold = NULL"
        f" WHERE hold IS NOT NULL AND id IN (SELECT value FROM json_each(?)){still}",
        (json.dumps(sorted(changed.messages)),),
    )
