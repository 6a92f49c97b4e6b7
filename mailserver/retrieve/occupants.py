"""Who has which maildrop, so that a session that nobody uses gives way to one that is wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

IDLE_SECONDS = 30.0
"""A session that has been silent so long, with nothing marked, gives way."""

WAIT_SECONDS = 10.0
"""How long a second log-in waits for the maildrop before it is told [IN-USE]."""

AGAIN_SECONDS = 0.25
"""How often it looks meanwhile."""


class Occupant(Protocol):
    """A session that has a maildrop."""

    def give_way(self) -> bool:
        """End for another session, if nothing would be lost by it; whether it does."""


class Occupants:
    """The sessions of a process, by the name of their account; shared by all listeners.

    ``elsewhere`` asks other processes, which have sessions of their own; it waits for nothing.
    """

    def __init__(self, elsewhere: Callable[[str], object] | None = None) -> None:
        self._by_name: dict[str, Occupant] = {}
        self._elsewhere = elsewhere

    def enter(self, name: str, session: Occupant) -> None:
        """``session`` has the maildrop of ``name`` now."""
        self._by_name[name] = session

    def leave(self, name: str, session: Occupant) -> None:
        """It has it no longer. Harmless twice."""
        if self._by_name.get(name) is session:
            del self._by_name[name]

    def ask(self, name: str) -> None:
        """Ask whoever has the maildrop, here or in another process, to give way."""
        if name in self._by_name:
            self.ask_here(name)
        elif self._elsewhere is not None:
            self._elsewhere(name)

    def ask_here(self, name: str) -> bool:
        """Ask a session of this process to give way; whether one does."""
        occupant = self._by_name.get(name)
        return occupant is not None and occupant.give_way()
