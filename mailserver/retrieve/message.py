"""A message of a maildrop on its way to the wire: cut for TOP, dot-stuffed, piece by piece."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mailserver.wire.dots import DotStuffer
from mailserver.wire.pop3_downgrade import downgraded
from mailserver.wire.pop3_top import TopCutter

CHUNK_OCTETS = 64 * 1024
"""How much is read before it is written: enough that a thread's cost does not show."""


def on_the_wire(pieces: Iterable[bytes], lines: int | None, utf8: bool = True) -> Iterator[bytes]:
    """What follows ``+OK``, final dot included; only ``lines`` lines of the body unless ``None``.

    Reads no further than it has to.  Without ``utf8`` a header in UTF-8 becomes one in ASCII.
    """
    if not utf8:
        pieces = downgraded(iter(pieces))
    stuffer = DotStuffer()
    if lines is None:
        for piece in pieces:
            yield stuffer.feed(piece)
    else:
        for piece in _top(pieces, lines):
            yield stuffer.feed(piece)
    yield stuffer.finish()


def _top(pieces: Iterable[bytes], lines: int) -> Iterator[bytes]:
    cutter = TopCutter(lines)
    for piece in pieces:
        yield cutter.feed(piece)
        if cutter.is_done:
            return
    yield cutter.finish()


def next_chunk(pieces: Iterator[bytes]) -> bytes:
    """At least ``CHUNK_OCTETS`` of what is left, or all of it, which is shorter. May block."""
    gathered: list[bytes] = []
    octets = 0
    for piece in pieces:
        gathered.append(piece)
        octets += len(piece)
        if octets >= CHUNK_OCTETS:
            break
    return b"".join(gathered)
