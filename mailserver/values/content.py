"""Content: what DATA carried, in canonical form (CRLF line ends, dots not stuffed)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from mailserver.values.value import value

CHUNK_OCTETS = 64 * 1024
"""How much of a content file is read at once."""


class Content(Protocol):
    """A message's octets, which may be read any number of times."""

    @property
    def size(self) -> int:
        """Octets in all."""
        ...

    def chunks(self) -> Iterator[bytes]:
        """The octets from the beginning, in pieces of any length.

        Raises:
            OSError: the file behind it cannot be read.
        """
        ...


@value(frozen=True, slots=True)
class MemoryContent:
    """Content small enough to stay in memory from acceptance to delivery."""

    octets: bytes

    @property
    def size(self) -> int:
        return len(self.octets)

    def chunks(self) -> Iterator[bytes]:
        yield self.octets


@value(frozen=True, slots=True)
class PiecesContent:
    """Content in memory, in the pieces in which SMTP has checked it: joining a large one would only copy it.

    All of its line ends are CRLF, and no CR or LF stands alone; a CRLF may be cut in two.
    """

    pieces: tuple[bytes, ...]
    size: int

    def chunks(self) -> Iterator[bytes]:
        return iter(self.pieces)


@value(frozen=True, slots=True)
class FileContent:
    """Content in a file of its own, read in pieces of ``CHUNK_OCTETS``."""

    path: Path
    size: int

    def chunks(self) -> Iterator[bytes]:
        with self.path.open("rb", buffering=0) as file:
            while piece := file.read(CHUNK_OCTETS):
                yield piece
