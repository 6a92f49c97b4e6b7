"""Room for messages under way: local and remote work have their own, so that neither stops the other."""

from __future__ import annotations

from mailserver.interfaces import IDeliveryAgent
from mailserver.values.content import MemoryContent
from mailserver.values.envelope import Entry

MOST_ENTRIES = 2000
"""Messages under way at once in one lane; more wait in the spool."""

MOST_OCTETS = 64 * 1024 * 1024
"""Content held in memory for one lane; a file behind an entry costs none."""


class Lane:
    """One way out, and what is under way on it."""

    def __init__(self, agent: IDeliveryAgent) -> None:
        self.agent = agent
        self.entries = 0
        self._octets = 0

    @property
    def has_room(self) -> bool:
        """Whether another message may set out."""
        return self.entries < MOST_ENTRIES and self._octets < MOST_OCTETS

    def enter(self, entry: Entry) -> None:
        """A message sets out."""
        self.entries += 1
        self._octets += _in_memory(entry)

    def leave(self, entry: Entry) -> None:
        """It has arrived, and its outcomes are recorded."""
        self.entries -= 1
        self._octets -= _in_memory(entry)


def _in_memory(entry: Entry) -> int:
    return entry.content.size if isinstance(entry.content, MemoryContent) else 0
