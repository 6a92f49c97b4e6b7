"""Room for messages under way: local, remote and our own reports have theirs, so that none stops another."""

from __future__ import annotations

from collections import Counter

from mailserver.interfaces import IDeliveryAgent
from mailserver.values.address import NULL_SENDER
from mailserver.values.content import MemoryContent
from mailserver.values.envelope import Entry

MOST_ENTRIES = 2000
"""Messages under way at once in one lane; more wait in the spool."""

MOST_RECIPIENTS = 20_000
"""Recipients under way at once in one lane: a message to a hundred thousand goes page after page."""

MOST_OCTETS = 64 * 1024 * 1024
"""Content held in memory for one lane; a file behind an entry costs none."""

PAGES_OF_ONE = 2
"""Pages of recipients of one message that are under way at once; the room is for others too."""

UNKNOWN, LOCAL, REMOTE, REPORTS = range(4)
"""The lanes' numbers, as the spool keeps them."""


class Lane:
    """One class of traffic, and what is under way in it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.entries = 0
        self._recipients = 0
        self._octets = 0

    @property
    def has_room(self) -> bool:
        """Whether another message may set out."""
        return (
            self.entries < MOST_ENTRIES and self._recipients < MOST_RECIPIENTS and self._octets < MOST_OCTETS
        )

    @property
    def is_half_empty(self) -> bool:
        """Whether it is worth to ask the spool for more."""
        return self.entries <= MOST_ENTRIES // 2 and self._recipients <= MOST_RECIPIENTS // 2

    def enter(self, entry: Entry, recipients: int) -> None:
        """A message sets out, to so many."""
        self.entries += 1
        self._recipients += recipients
        self._octets += _in_memory(entry)

    def leave(self, entry: Entry, recipients: int) -> None:
        """It has arrived, and its outcomes are recorded."""
        self.entries -= 1
        self._recipients -= recipients
        self._octets -= _in_memory(entry)


class Lanes:
    """The three lanes, and which messages have pages enough under way."""

    def __init__(self, local: IDeliveryAgent, remote: IDeliveryAgent) -> None:
        self._agents = {False: local, True: remote}
        self._local, self._remote, self._reports = Lane(LOCAL), Lane(REMOTE), Lane(REPORTS)
        self._pages: Counter[int] = Counter()

    def lane(self, entry: Entry, is_remote: bool) -> Lane:
        """Where an entry's recipients of one kind belong. What has a null sender is a report, and must get
        through when mail is stuck: it may be the report that says so."""
        if entry.envelope.reverse_path == NULL_SENDER:
            return self._reports
        return self._remote if is_remote else self._local

    def agent(self, is_remote: bool) -> IDeliveryAgent:
        """The way out."""
        return self._agents[is_remote]

    @property
    def with_room(self) -> tuple[int, ...]:
        """The numbers of the lanes that may be asked for; those of whom nothing is known with any."""
        open_ = [lane.number for lane in (self._local, self._remote, self._reports) if lane.has_room]
        return (UNKNOWN, *open_) if open_ else ()

    def begin(self, entry: Entry) -> None:
        """A page of an entry's recipients is under way."""
        self._pages[entry.id] += 1

    def end(self, entry: Entry) -> None:
        """It is not any more."""
        self._pages[entry.id] -= 1
        if not self._pages[entry.id]:
            del self._pages[entry.id]

    @property
    def crowded(self) -> list[int]:
        """Entries that have pages enough under way."""
        if len(self._pages) == self._pages.total():
            return []
        return [number for number, pages in self._pages.items() if pages >= PAGES_OF_ONE]


def _in_memory(entry: Entry) -> int:
    return entry.content.size if isinstance(entry.content, MemoryContent) else 0
