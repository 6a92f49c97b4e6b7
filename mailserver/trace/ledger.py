"""The books: every message that was accepted against what became of each of its recipients.

They are kept from the trace alone, so they know what the spool has forgotten, whoever made it forget.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mailserver.trace.recorder import BEGAN, LOST, RULES, STOPPED
from mailserver.trace.records import ENDS
from mailserver.trace.segments import Segment, lines_of, segments

STRIDE = 500
"""Lines that are read at a stretch before ``pace`` is called."""

REMEMBERED = 100_000
"""Messages that have ended and are remembered, so that a second end is noticed."""


@dataclass(slots=True)
class Open:
    """A message with recipients (numbers, with their addresses) of which no end is known."""

    id: str
    accepted: float
    sender: str
    waiting: dict[int, str]
    writer: str


@dataclass(frozen=True, slots=True)
class Gap:
    """Records of a writer that are not there: ``count`` dropped ones (0: nobody counted, after a crash)
    between two moments."""

    writer: str
    since: float
    until: float
    count: int


@dataclass(slots=True)
class Books:
    """What the records come to; ``read`` may be called again, and goes on where it was.

    ``ends`` counts recipients by their end; ``delivered`` has (id, number, address) of those in Maildirs;
    ``again`` are ends of recipients that had one.
    """

    messages: int = 0
    recipients: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    open: dict[str, Open] = field(default_factory=dict)
    delivered: list[tuple[str, int, str]] = field(default_factory=list)
    again: list[tuple[str, int, str]] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    _closed: dict[str, None] = field(default_factory=dict)
    _early: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    _places: dict[Path, int] = field(default_factory=dict)
    _last: dict[str, tuple[str, float]] = field(default_factory=dict)

    def read(self, folder: Path, pace: Callable[[], object] = lambda: None) -> None:
        """Take in what has come since the last time; ``pace`` is called often, and may raise to end it."""
        lines = 0
        for segment, line in self._new_lines(folder):
            lines += 1
            if not lines % STRIDE:
                pace()
            try:
                record = json.loads(line)
                self._take(segment.writer, record)
            except (ValueError, KeyError, TypeError):
                continue  # torn by a crash, or from another version

    def _new_lines(self, folder: Path) -> Iterator[tuple[Segment, bytes]]:
        for segment in segments(folder):
            start = self._places.get(segment.path, 0)
            for line in lines_of(segment, start):
                start += len(line)
                yield segment, line
            self._places[segment.path] = start

    def _take(self, writer: str, record: dict[str, Any]) -> None:
        event, moment = record["e"], float(record["t"])
        before, last = self._last.get(writer, (STOPPED, moment))
        if event == BEGAN and before != STOPPED:
            self.gaps.append(Gap(writer, last, moment, 0))
        elif event == LOST:
            self.gaps.append(Gap(writer, last, moment, int(record["count"])))
        if event != RULES:  # each new file begins with it
            self._last[writer] = (event, moment)
        if event == "accepted":
            self._accepted(writer, record)
        elif event in ("attempt", "operator"):
            self._ended(record)

    def _accepted(self, writer: str, record: dict[str, Any]) -> None:
        id_ = record["q"]
        if id_ in self.open or id_ in self._closed:
            return
        waiting = {int(one[0]): str(one[1]) for one in record["to"]}
        self.messages += 1
        self.recipients += len(waiting)
        self.open[id_] = Open(id_, float(record["t"]), str(record["from"]), waiting, writer)
        for early in self._early.pop(id_, ()):  # another worker, whose file was read before
            self._ended(early)

    def _ended(self, record: dict[str, Any]) -> None:
        id_ = record["q"]
        entry = self.open.get(id_)
        if entry is None:
            if id_ in self._closed:
                self._ended_again(record, {})
            else:
                self._early.setdefault(id_, []).append(record)
            return
        if record["e"] == "operator":
            if record["what"] == "removed":
                gone = entry.waiting.keys() & record.get("n", entry.waiting.keys())
                self.ends["removed"] += len(gone)
                for number in gone:
                    del entry.waiting[number]
        else:
            self._ended_again(record, entry.waiting)
            for one in record["to"]:
                if one["what"] in ENDS and entry.waiting.pop(int(one["n"]), None) is not None:
                    self.ends[one["what"]] += 1
                    if one["what"] == "delivered" and one["relay"] == "maildir":
                        self.delivered.append((id_, int(one["n"]), one["to"]))
        if not entry.waiting:
            del self.open[id_]
            self._closed[id_] = None
            if len(self._closed) > REMEMBERED:
                del self._closed[next(iter(self._closed))]

    def _ended_again(self, record: dict[str, Any], waiting: dict[int, str]) -> None:
        for one in record["to"] if record["e"] == "attempt" else ():
            if one["what"] in ENDS and int(one["n"]) not in waiting:
                self.again.append((record["q"], int(one["n"]), one["to"]))

    def may_have_lost(self, entry: Open) -> Gap | None:
        """The gap in which an end of ``entry`` may have been lost, if there is one."""
        return next((gap for gap in self.gaps if gap.until >= entry.accepted), None)
