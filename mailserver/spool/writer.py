"""One message on its way into the spool: in memory while that is right, then in a file of its own."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Protocol

from zope.interface import implementer

from mailserver.interfaces import ISpoolWriter, SpoolUnavailable
from mailserver.promise import Promise
from mailserver.spool.bodies import Bodies, BodyStream
from mailserver.values.content import Content, MemoryContent, PiecesContent
from mailserver.values.envelope import Entry, Envelope

IN_DATABASE_OCTETS = 256 * 1024
"""Content up to this size lives in the database, larger content in a file of its own."""

HELD_OCTETS = 2 * 1024 * 1024
"""Content up to this size stays in memory until its end has come; most of it is delivered then, and needs no
file of the spool."""

HELD_IN_ALL = 32 * 1024 * 1024
"""Octets of such contents, of all sessions together; more of them go to files as they come."""

_SMALL_PIECES = 64
"""So many pieces are made one: a client that sends octet by octet must not fill memory with what Python adds
to each."""


class HeldMemory:
    """Counts what large contents hold in memory, of all sessions together; for any thread."""

    def __init__(self) -> None:
        self._held = 0
        self._lock = threading.Lock()

    def hold(self, octets: int) -> bool:
        """Let a writer keep so many octets more (below 0: fewer); whether they are not too many."""
        with self._lock:
            if octets > 0 and self._held + octets > HELD_IN_ALL:
                return False
            self._held += octets
        return True


class Place(Protocol):
    """What a writer needs of ``sqlite.SqliteSpool``, where its methods are explained."""

    bodies: Bodies
    memory: HeldMemory

    def has_reserved(self, number: int, /) -> bool: ...
    def unkept(self, number: int, envelope: Envelope, content: Content, /) -> Entry: ...
    def unkept_file(
        self, number: int, envelope: Envelope, size: int, stream: BodyStream, /
    ) -> Future[Entry]: ...
    def keep(self, number: int, envelope: Envelope, octets: bytes, /) -> Future[Entry]: ...
    def keep_file(
        self, number: int, envelope: Envelope, size: int, stream: BodyStream, /
    ) -> Future[Entry]: ...


@implementer(ISpoolWriter)
class SpoolWriter:
    """One message on its way in: in memory while it is small, then in a file of its own."""

    def __init__(self, spool: Place, number: int) -> None:
        self.id = number
        self._spool = spool
        self._chunks: list[bytes] = []
        self._joined = 0
        self._size = 0
        self._held = 0
        self._stream: BodyStream | None = None
        self._ended = False

    def write(self, chunk: bytes) -> Future[None] | None:
        """See ``ISpoolWriter``."""
        if self._ended:
            return None
        self._size += len(chunk)
        if self._stream is not None:
            return self._stream.write(chunk)
        self._chunks.append(chunk)
        if len(self._chunks) - self._joined > _SMALL_PIECES:
            self._chunks[self._joined :] = [b"".join(self._chunks[self._joined :])]
            self._joined += 1
        if self._size <= IN_DATABASE_OCTETS or self._may_hold():
            return None
        return self._begin_file()

    def _may_hold(self) -> bool:
        """Whether what is here may stay in memory although it is large."""
        if self._size > HELD_OCTETS or not self._spool.memory.hold(self._size - self._held):
            return False
        self._held = self._size
        return True

    def _let_go(self) -> None:
        """Memory for others."""
        self._spool.memory.hold(-self._held)
        self._held = 0

    def _begin_file(self) -> Future[None] | None:
        self._stream = self._spool.bodies.begin(self.id)
        chunks, self._chunks = self._chunks, []
        room = None
        for chunk in chunks:
            room = self._stream.write(chunk)
        if room is None:
            self._let_go()
        else:  # in memory until the disk has taken it, though it be after the commit was asked for
            held, self._held = self._held, 0
            room.add_done_callback(lambda _: self._spool.memory.hold(-held))
        return room

    def entry(self, envelope: Envelope) -> Entry | Future[Entry] | None:
        """See ``ISpoolWriter``."""
        if self._ended or not self._spool.has_reserved(self.id):
            return None
        if self._stream is not None:
            return self._spool.unkept_file(self.id, envelope, self._size, self._stream)
        if self._size > IN_DATABASE_OCTETS:
            return self._spool.unkept(self.id, envelope, PiecesContent(tuple(self._chunks), self._size))
        octets = b"".join(self._chunks)
        self._chunks = [octets]
        return self._spool.unkept(self.id, envelope, MemoryContent(octets))

    def commit(self, envelope: Envelope) -> Future[Entry]:
        """See ``ISpoolWriter``."""
        if self._ended:
            return failed(SpoolUnavailable("the message was ended before"))
        self._ended = True
        if self._size > IN_DATABASE_OCTETS and self._stream is None:
            self._begin_file()
        chunks, self._chunks = self._chunks, []
        if self._stream is None:
            return self._spool.keep(self.id, envelope, b"".join(chunks))
        return self._spool.keep_file(self.id, envelope, self._size, self._stream)

    def abort(self) -> None:
        """See ``ISpoolWriter``."""
        if self._ended:
            return
        self._ended = True
        self._chunks = []
        self._let_go()
        if self._stream is not None:
            self._stream.discard()


def failed(error: SpoolUnavailable) -> Future[Entry]:
    """A commit that was none."""
    future: Future[Entry] = Promise()
    future.set_exception(error)
    return future
