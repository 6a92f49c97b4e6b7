"""Finding what is asked for in the segments: by queue id, mark, message-id, address, or the last there is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mailserver.trace.marks import made_at
from mailserver.trace.recorder import RULES
from mailserver.trace.segments import Segment, lines_of, segments

Record = dict[str, Any]

BEGINS_AT = len(b'{"q":"')
MARGIN = 3600.0
"""Seconds by which clocks may have gone back since an id was given out."""


@dataclass(slots=True)
class Life:
    """All that is known of one id, in the order in which it happened; ``rules`` are those that were
    asked about recipients then; ``parent`` is the message that this one was made from."""

    id: str
    records: list[Record] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    parent: str = ""


def find(
    folder: Path, what: str, most: int, progress: Callable[[int], object] = lambda octets: None
) -> list[str]:
    """The ids (of messages and of refusals) that ``what`` names, the newest ``most``, oldest first.

    ``progress`` hears how many octets were read. An id that no record has gives nothing.
    """
    if what == "last":
        return _last(folder)
    if "@" not in what and made_at(what) is not None:
        return [what]
    wanted = what.strip("<>")
    found: dict[str, float] = {}
    for record in _mentions(folder, wanted, progress):
        if record.get("e") in ("accepted", "refused") and _is_about(record, wanted.lower()):
            found[record["q"]] = max(float(record["t"]), found.get(record["q"], 0.0))
            if len(found) > 4 * most:
                found = _newest(found, most)
    return list(_newest(found, most))


def _newest(moments: dict[str, float], most: int) -> dict[str, float]:
    """Each worker writes a file of its own: what is read last need not be the newest."""
    return dict(sorted(moments.items(), key=lambda one: one[1])[-most:])


def lives(
    folder: Path, ids: list[str], progress: Callable[[int], object] = lambda octets: None
) -> dict[str, Life]:
    """What happened to each of ``ids`` and to what was made from them."""
    found = {id_: Life(id_) for id_ in ids}
    wanted = {id_.encode() for id_ in ids}
    moments = [moment for id_ in ids if (moment := made_at(id_)) is not None]
    since = min(moments, default=0.0) - MARGIN
    rules: dict[str, list[str]] = {}
    for segment, line in _lines(folder, since, progress):
        id_ = line[BEGINS_AT : line.find(b'"', BEGINS_AT)]
        if id_ and id_ not in wanted:
            continue
        record = _record(line)
        if record is None:
            continue
        if not id_:
            if record.get("e") == RULES:
                rules[segment.writer] = record["rules"]
            continue
        life = found[record["q"]]
        life.records.append(record)
        if record["e"] in ("accepted", "refused"):
            life.rules = rules.get(segment.writer, [])
        elif record["e"] == "child" and (child := record["child"]) not in found:
            found[child] = Life(child, parent=life.id)
            wanted.add(child.encode())
    for life in found.values():
        life.records.sort(key=lambda record: float(record["t"]))
    return {id_: life for id_, life in found.items() if life.records}


def total_octets(folder: Path) -> int:
    """How much there is to read, for a progress bar."""
    total = 0
    for segment in segments(folder):
        with suppress(OSError):
            total += segment.path.stat().st_size
    return total


def _last(folder: Path) -> list[str]:
    for day in sorted({segment.day for segment in segments(folder)}, reverse=True):
        newest: tuple[float, str] = (0.0, "")
        for segment in segments(folder):
            if segment.day == day:
                for line in lines_of(segment):
                    if b'"e":"accepted"' in line or b'"e":"refused"' in line:
                        record = _record(line)
                        if record is not None and not record.get("how", "").startswith("from "):
                            newest = max(newest, (float(record["t"]), record["q"]))
        if newest[1]:
            return [newest[1]]
    return []


def _mentions(folder: Path, text: str, progress: Callable[[int], object]) -> Iterator[Record]:
    needle = json.dumps(text)[1:-1].lower().encode()
    for _, line in _lines(folder, 0.0, progress):
        if needle in line.lower():
            record = _record(line)
            if record is not None:
                yield record


def _lines(folder: Path, since: float, progress: Callable[[int], object]) -> Iterator[tuple[Segment, bytes]]:
    for segment in segments(folder, max(since, 0.0)):
        octets = 0
        for line in lines_of(segment):
            octets += len(line)
            if octets > 1 << 20:
                progress(octets)
                octets = 0
            yield segment, line
        progress(octets)


def _is_about(record: Record, wanted: str) -> bool:
    if (
        str(record.get("id", "")).strip("<>").lower() == wanted
        or str(record.get("from", "")).lower() == wanted
    ):
        return True
    to = record.get("to")
    if isinstance(to, list):
        return any(wanted == str(name).lower() for one in to for name in one[1:])
    return str(to).lower() == wanted or str(record.get("user", "")).lower() == wanted


def _record(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "q" in record and "e" in record else None
