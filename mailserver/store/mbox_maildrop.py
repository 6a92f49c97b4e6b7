"""POP3's view of an mbox: a snapshot of its messages, read in place, rewritten at QUIT."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from mailserver.durable import Disk
from mailserver.interfaces import Listing, MailboxUnavailable
from mailserver.store.locks import HeldMbox, MboxLocks
from mailserver.store.maildrop import Maildrop, MaildropLock
from mailserver.store.mbox_file import Region, is_quoted, regions
from mailserver.store.mbox_rewrite import rewrite_without
from mailserver.store.mboxrd import unquoted
from mailserver.store.octets import CrlfCount, open_regular, pieces_of, to_crlf
from mailserver.store.status_fields import CHANGING_FIELDS, without_fields
from mailserver.store.trash import append_copies, copy_regions, deleted_mboxes

_ID_OCTETS = 20
_HEADER_OCTETS = 64 * 1024


class _Message(NamedTuple):
    region: Region
    digest: str
    octets: int


class MboxMaildrop(Maildrop):
    """A snapshot in the order of the file.

    A unique id is a hash of the message's octets with its From_ line, so it stays when other
    messages go and when the server starts anew; the fields in which programs keep flags do not count
    and are not shown.  The second and later of messages that are equal to the last octet have ``-2``,
    ``-3`` … after the hash, counted in the file: those numbers shift when an earlier twin is removed.
    Deliveries of ours are never equal: their trace fields differ.
    """

    def __init__(
        self, disk: Disk, locks: MboxLocks, path: str, lock: MaildropLock, undelete: bool = False
    ) -> None:
        """``undelete``: whether what is removed goes to the trash."""
        self._disk = disk
        self._undelete = undelete
        self._locks = locks
        self._path = path
        self._fd = -1
        self._seen = (0, 0)
        self._messages: list[_Message] = []
        with locks.hold(path) as held:
            if held.fd >= 0:
                # Not a copy of the held descriptor, which would keep the lock for the whole session.
                self._fd = open_regular(path)
                self._messages = _messages(self._fd, held.size)
                self._seen = _state(self._fd)
        ids = _unique_ids(self._messages)
        super().__init__(lock, [Listing(m.octets, i) for m, i in zip(self._messages, ids, strict=True)])

    def read(self, index: int) -> Iterator[bytes]:
        """The message in canonical form, in pieces; ``OSError`` when somebody has changed it."""
        message = self._messages[index]
        if _state(self._fd) != self._seen and _measure(self._fd, message.region) != message:
            raise OSError("the mailbox was changed by another program")
        return to_crlf(_content(self._fd, message.region))

    def release(self) -> None:
        """Give up the lock and the file. Harmless twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        super().release()

    def _remove(self, indexes: list[int]) -> int:
        """Find the marked messages anew, since the file may have grown or been rewritten meanwhile."""
        wanted = {self.listings[index].unique_id for index in indexes}
        removed = 0
        with suppress(OSError, MailboxUnavailable), self._locks.hold(self._path) as held:
            if held.fd < 0:
                return 0
            now = _messages(held.fd, held.size)
            going = [
                message.region
                for message, identity in zip(now, _unique_ids(now), strict=True)
                if identity in wanted
            ]
            if going:
                if self._undelete:
                    self._keep(held, going)
                rewrite_without(self._disk, held, going)
            removed = len(indexes)
        return len(indexes) - removed

    def _keep(self, held: HeldMbox, going: list[Region]) -> None:
        try:
            copy_regions(self._disk, held, going)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise  # a full disk must not keep anybody from making room


def bring_back_mbox(disk: Disk, held: HeldMbox, since: float) -> int:
    """Append what the trash has since then and the locked mbox has not; how many messages."""
    there = {message.digest for message in _messages(held.fd, held.size)}
    count = 0
    for path, fd in deleted_mboxes(held.path, since):
        missing = [m for m in _messages(fd, os.fstat(fd).st_size) if m.digest not in there]
        if missing:
            append_copies(disk, held, fd, [message.region for message in missing])
            count += len(missing)
            there.update(message.digest for message in missing)
        disk.remove(path)
    return count


def _state(fd: int) -> tuple[int, int]:
    now = os.fstat(fd)
    return now.st_size, now.st_mtime_ns


def _messages(fd: int, size: int) -> list[_Message]:
    found = regions(fd, size)
    if found and _is_internal(fd, found[0]):
        del found[0]
    return [_measure(fd, region) for region in found]


def _is_internal(fd: int, region: Region) -> bool:
    """Whether it is no message: c-client and Dovecot keep facts of the folder in a first one."""
    header = os.pread(fd, min(_HEADER_OCTETS, region[1] - region[0]), region[0]).partition(b"\n\n")[0]
    return b"\nX-IMAP:" in header and b"FOLDER INTERNAL DATA" in header


def _measure(fd: int, region: Region) -> _Message:
    """Read a message for its hash and its size on the wire."""
    digest = hashlib.blake2b(digest_size=_ID_OCTETS)
    start, end = region
    content = _line_end(fd, start, end)
    digest.update(os.pread(fd, content - start, start))
    for piece in without_fields(pieces_of(fd, content, end), CHANGING_FIELDS):
        digest.update(piece)
    count = CrlfCount()
    for piece in _content(fd, region):
        count.add(piece)
    return _Message(region, digest.hexdigest(), count.total)


def _content(fd: int, region: Region) -> Iterator[bytes]:
    """What was delivered: without the From_ line and the empty line at the end, quoting undone."""
    start, end = region
    if os.pread(fd, 2, end - 2) == b"\n\n":
        end -= 1
    stored = without_fields(pieces_of(fd, _line_end(fd, start, end), end))
    return unquoted(stored) if is_quoted(fd, region) else stored


def _line_end(fd: int, start: int, end: int) -> int:
    """Where the From_ line of the message has ended."""
    at = start
    for piece in pieces_of(fd, start, end):
        found = piece.find(b"\n")
        if found >= 0:
            return at + found + 1
        at += len(piece)
    return end


def _unique_ids(messages: list[_Message]) -> list[str]:
    met: dict[str, int] = {}
    ids: list[str] = []
    for message in messages:
        count = met[message.digest] = met.get(message.digest, 0) + 1
        ids.append(message.digest if count == 1 else f"{message.digest}-{count}")
    return ids
