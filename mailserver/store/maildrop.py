"""POP3's maildrop: an exclusive lock that dies with its process, a snapshot, and marks."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
from collections.abc import Iterator, Sequence

from zope.interface import implementer

from mailserver.interfaces import IMaildrop, MaildropInUse
from mailserver.store.kept_ids import is_unique_id
from mailserver.values.line_ends import lf_text
from mailserver.values.listing import Listings

_ID = re.compile(r"(?:[!-~]{1,70}\n)*")
_LOCK = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class MaildropLock:
    """The exclusive lock of RFC 1939 §4.

    ``flock`` belongs to the open file, so it keeps out a second session of this process as well as
    another process, and the kernel frees it when its holder dies.  The file is never removed: who
    locked a removed file would share the maildrop with who locks the next one.
    """

    def __init__(self, path: str) -> None:
        """Take the lock or raise ``MaildropInUse``; ``OSError`` when there is no making the file."""
        self._fd = os.open(path, _LOCK, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise MaildropInUse("another session has the maildrop") from None
            raise

    def release(self) -> None:
        """Let others in; harmless twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


@implementer(IMaildrop)
class Maildrop:
    """What both formats share. They add ``read`` and ``_remove``."""

    def __init__(self, lock: MaildropLock, listings: Listings) -> None:
        self._lock = lock
        self.listings = listings
        self.marked: set[int] = set()

    def read(self, index: int) -> Iterator[bytes]:
        """The message in canonical form, in pieces; ``OSError`` when it has vanished."""
        raise NotImplementedError

    def whole(self, index: int) -> bytes | None:
        """See ``IMaildrop``."""
        content = b"".join(self.read(index))
        return content if self._is_as_listed(index, content) else None

    def _is_as_listed(self, index: int, content: bytes) -> bool:
        """Whether nothing keeps it from being sent in one piece."""
        return len(content) <= self.listings.octets[index] and lf_text(content) is not None

    def mark(self, index: int) -> None:
        """Mark as deleted; ``IndexError`` when there is no such message."""
        if not 0 <= index < len(self.listings):
            raise IndexError(f"no message with index {index}")
        self.marked.add(index)

    def unmark_all(self) -> None:
        """Take back every mark (RSET)."""
        self.marked.clear()

    def commit(self) -> int:
        """Remove what is marked, durably; how many messages could not be removed.

        A message that somebody else has removed meanwhile counts as removed.
        """
        return self._remove(sorted(self.marked)) if self.marked else 0

    def release(self) -> None:
        """Give up the lock, without removing anything. Harmless twice."""
        self._lock.release()

    def _remove(self, indexes: list[int]) -> int:
        raise NotImplementedError


def unique_id(name: str) -> str:
    """``name`` where UIDL may carry it (1 to 70 characters 0x21 to 0x7E), else its hash."""
    if is_unique_id(name):
        return name
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:40]


def are_unique_ids(names: Sequence[str]) -> bool:
    """Whether UIDL may carry all of them, none of which has a line end in it."""
    return _ID.fullmatch("\n".join(names) + "\n") is not None


def nothing() -> None:
    """What is done between lock and snapshot for those who ask for nothing."""
