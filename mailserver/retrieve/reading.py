"""An open maildrop: RETR and TOP, a small message at once, all others in pieces from a thread; and QUIT."""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from typing import Any

from mailserver import maillog
from mailserver.interfaces import IMaildrop
from mailserver.retrieve.message import CHUNK_OCTETS, next_chunk, on_the_wire
from mailserver.retrieve.outlet import Outlet
from mailserver.retrieve.settings import READ_IN_THREADS
from mailserver.retrieve.tally import Tally
from mailserver.threads import Workers
from mailserver.wire.dots import END_OF_DATA, clean_dot_stuffed
from mailserver.wire.pop3_events import Retrieve, Transmit, Update
from mailserver.wire.pop3_server import Pop3Server

AHEAD_OCTETS = 16 * 1024 * 1024
"""For all sessions of a listener together."""


class Unsent(Exception):
    """A message broke off: only a broken connection tells the client that it is not whole."""


class Ahead:
    """What is ready for clients that have not asked for it yet; they may be gone for ten minutes."""

    __slots__ = ("octets",)

    def __init__(self) -> None:
        self.octets = 0

    @property
    def is_full(self) -> bool:
        return self.octets >= AHEAD_OCTETS


class Reading:
    """One session's maildrop.

    ``workers`` read what must be waited for; see ``settings.DIRECT_OCTETS`` for ``direct_octets``, and
    ``ahead`` for what all sessions have made ready.
    """

    def __init__(
        self,
        drop: IMaildrop,
        machine: Pop3Server,
        outlet: Outlet,
        tally: Tally,
        workers: Workers,
        direct_octets: int,
        ahead: Ahead,
    ) -> None:
        self._drop = drop
        self._tally = tally
        self._sizes = drop.listings.octets
        self._machine = machine
        self._outlet = outlet
        self._workers = workers
        self._direct_octets = direct_octets
        self._in_threads = 0
        self._following = 0  # the message behind the one that was fetched last
        self._expected = -1
        self._ready: tuple[int, bytes | None] = -1, None
        self._ahead = ahead

    def release(self) -> None:
        """Give up the maildrop; nothing is removed. Harmless twice."""
        self._make_ready(-1, None)
        self._drop.release()

    def update(self, event: Update) -> Coroutine[Any, Any, None] | None:
        """QUIT: remove and unlock before it is answered, for the client may be back at once."""
        if event.marked:
            return self._remove(sorted(event.marked))
        self.release()
        self._machine.updated(0)
        return None

    async def _remove(self, marked: list[int]) -> None:
        try:
            failures = await self._workers.call(_removed, self._drop, marked)
        except Exception as error:
            maillog.fault("removing messages", error)
            failures = len(marked)
        self._tally.removed(marked, failures)
        if not self._outlet.is_lost:
            self._machine.updated(failures)

    def retrieve(self, event: Retrieve) -> Coroutine[Any, Any, None] | None:
        """Answer the event, or give what has to be awaited for it; that raises ``Unsent``."""
        if self._sizes[event.index] > self._direct_octets:
            return self._in_pieces(event)
        if self._in_threads:
            self._in_threads -= 1
            return self._in_pieces(event)
        if event.lines is None:
            index = event.index
            ready, octets = self._ready
            if ready != index:
                octets = self._in_memory(index)
            if octets is not None:
                self._make_ready(-1, None)
                self._expected = index + 1 if index == self._following else -1
                self._following = index + 1
                self._machine.transmitted(event.opening + octets)
                self._tally.fetched(index)
                return None
        elif (whole := self._drop.whole(event.index)) is not None:
            top = on_the_wire((whole,), event.lines, self._machine.is_utf8)
            self._machine.transmitted(event.opening + b"".join(top))
            return None
        self._in_threads = READ_IN_THREADS
        return self._in_pieces(event)

    def _in_memory(self, index: int) -> bytes | None:
        """What follows ``+OK``, if the whole message is in memory."""
        whole = self._drop.whole(index)
        if whole is None:
            return None
        if self._machine.is_utf8 or whole.isascii():
            return clean_dot_stuffed(whole) + END_OF_DATA
        return b"".join(on_the_wire((whole,), None, utf8=False))

    def look_ahead(self) -> None:
        """Make ready what is asked for next by a client that fetches message after message.

        While it takes the last one in, nobody waits: both sides work at the same time.
        """
        index, self._expected = self._expected, -1
        sizes = self._sizes
        if not (0 <= index < len(sizes) and sizes[index] <= self._direct_octets) or self._ahead.is_full:
            return
        try:
            self._make_ready(index, self._in_memory(index))
        except Exception:
            self._make_ready(-1, None)  # nobody has asked for it; whoever does meets the fault

    def _make_ready(self, index: int, octets: bytes | None) -> None:
        self._ahead.octets += len(octets or b"") - len(self._ready[1] or b"")
        self._ready = index, octets

    async def _in_pieces(self, event: Retrieve) -> None:
        """Send chunk after chunk, of which one is read ahead and no more."""
        outlet = self._outlet
        try:
            pieces, chunk = await self._workers.call(_open, self._drop, event, self._machine.is_utf8)
        except OSError as error:
            self._unreadable(error)
            return
        self._machine.send(event.opening)
        while len(chunk) >= CHUNK_OCTETS and not outlet.is_lost:
            self._machine.send(chunk)
            outlet.flush()
            reading = self._workers.call(next_chunk, pieces)
            await outlet.has_room()
            try:
                chunk = await reading
            except OSError as error:
                maillog.fault("reading a message", error)
                raise Unsent from error
        if not outlet.is_lost:
            self._machine.transmitted(chunk)  # a shorter one is the last
            if event.lines is None:
                self._tally.fetched(event.index)

    def _unreadable(self, error: OSError) -> None:
        if isinstance(error, FileNotFoundError):
            self._machine.refuse("The message is gone: another program has removed it")
        else:
            maillog.fault("reading a message", error)
            self._machine.refuse("The message cannot be read now", "SYS/TEMP")


async def transmit(event: Transmit, machine: Pop3Server, outlet: Outlet) -> None:
    """Send a long list as the client reads it, and answer the event."""
    for piece in event.pieces:
        machine.send(piece)
        outlet.flush()
        await outlet.has_room()
        if outlet.is_lost:
            return
    machine.transmitted()


def _open(drop: IMaildrop, event: Retrieve, utf8: bool) -> tuple[Iterator[bytes], bytes]:
    pieces = on_the_wire(drop.read(event.index), event.lines, utf8)
    return pieces, next_chunk(pieces)


def _removed(drop: IMaildrop, marked: list[int]) -> int:
    try:
        for index in marked:
            drop.mark(index)
        return drop.commit()
    finally:
        drop.release()
