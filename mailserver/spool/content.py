"""Content that stays in the spool's database until somebody reads it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mailserver.spool.schema import connect


class ContentReader:
    """A connection of its own for reading contents, from any thread, one at a time."""

    def __init__(self, path: Path) -> None:
        self._db: sqlite3.Connection | None = connect(path)
        self._lock = threading.Lock()

    def read(self, number: int) -> bytes:
        """The content of an entry.

        Raises:
            OSError: the entry is gone, or the database cannot be read.
        """
        with self._lock:
            if self._db is None:
                raise OSError("the spool is closed")
            try:
                row = self._db.execute("SELECT content FROM entry WHERE id = ?", (number,)).fetchone()
            except sqlite3.Error as error:
                raise OSError(f"the spool cannot be read: {error}") from error
        if row is None or not isinstance(row[0], bytes):
            raise FileNotFoundError(f"entry {number} has no content in the spool")
        return row[0]

    def close(self) -> None:
        """Close; later reads fail."""
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None


@dataclass(frozen=True, slots=True)
class StoredContent:
    """A ``Content`` of at most ``writer.IN_DATABASE_OCTETS``, read when it is needed."""

    reader: ContentReader
    number: int
    size: int

    def chunks(self) -> Iterator[bytes]:
        yield self.reader.read(self.number)
