"""Large content on its way to another server, as fast as the other side reads."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Protocol

from twisted.internet.interfaces import IPullProducer
from zope.interface import implementer

from mailserver.wire.dots import DotStuffer

WHOLE_OCTETS = 256 * 1024
"""Content up to this size leaves in one write."""


class Outflow(Protocol):
    """The session that content goes through."""

    @property
    def content_size(self) -> int: ...
    def content_block(self, octets: bytes) -> None: ...
    def content_finished(self, octets: bytes) -> None: ...
    def content_unreadable(self, error: OSError) -> None: ...


@implementer(IPullProducer)
class ContentProducer:
    """Reads the next piece of content when the connection has sent the last."""

    def __init__(self, session: Outflow, chunks: Iterator[bytes], stuffer: DotStuffer | None) -> None:
        """``stuffer`` is ``None`` for BDAT, whose octets stay as they are."""
        self._session = session
        self._chunks = chunks
        self._stuffer = stuffer
        self._left = session.content_size

    def resumeProducing(self) -> None:
        """Send one piece, or the end of data."""
        try:
            for chunk in self._chunks:
                # A piece may stuff to nothing; only a write brings the next call.
                self._left -= len(chunk)
                if octets := chunk if self._stuffer is None else self._stuffer.feed(chunk):
                    self._session.content_block(octets)
                    return
        except OSError as error:
            self._session.content_unreadable(error)
            return
        if self._stuffer is not None:
            self._session.content_finished(self._stuffer.finish())
        elif self._left:
            self._session.content_unreadable(OSError(errno.EIO, "it is not as long as it was"))
        else:
            self._session.content_finished(b"")

    def stopProducing(self) -> None:
        """The connection is gone; the file behind the content is closed with the generator."""
        self._chunks = iter(())
