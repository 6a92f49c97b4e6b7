"""Where a POP3 session's responses leave: one write for all that are ready, and nothing more while the
client does not read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from mailserver.sockets import TURN_OCTETS, direct_writer
from mailserver.wire.pop3_server import Pop3Server


class Outlet:
    """Writes what the machine has queued."""

    def __init__(self, machine: Pop3Server) -> None:
        self._take = machine.take_output
        self._room: Deferred[None] | None = None
        self._transport: Any = None
        self._direct = False
        self.turn_octets = 0
        """How much has left in this turn of the reactor; whoever is in a new turn puts it back to 0."""
        self._write: Callable[[bytes], object] = _nowhere
        self.is_full = False
        self.is_lost = False

    def open(self, transport: Any, direct: bool) -> None:
        """Write there from now on; ``direct``: as much as a plain socket takes without the reactor."""
        self._transport, self._direct = transport, direct
        self._write = direct_writer(transport) if direct else transport.write

    def drained(self) -> None:
        """The transport has written all it had, in turns that are over."""
        self.turn_octets = 0
        if self._direct:
            self._write = direct_writer(self._transport)

    def flush(self) -> int:
        """Write what is queued; how many octets that were."""
        octets = self._take()
        if octets:
            self._write(octets)
            self.turn_octets += len(octets)
            if self.turn_octets > TURN_OCTETS and self._direct and not self.is_lost:
                # The transport writes in turns to come, and says when there is room.
                self._write = self._transport.write
        return len(octets)

    async def has_room(self) -> None:
        """Wait until the client has read; or until it is gone."""
        if self.is_full and not self.is_lost:
            self._room = Deferred()
            await self._room

    def found_room(self) -> None:
        """Let go on who waits in ``has_room``."""
        room, self._room = self._room, None
        if room is not None:
            room.callback(None)

    def lose(self) -> None:
        """The connection is gone."""
        self.is_lost = True
        self._write = _nowhere
        self.found_room()


def _nowhere(octets: bytes) -> None:
    """There is no connection."""
