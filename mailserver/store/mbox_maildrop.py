"""POP3's view of an mbox: a snapshot of its messages, read in place, rewritten at QUIT."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress

from mailserver.durable import Disk
from mailserver.interfaces import MailboxUnavailable
from mailserver.store.kept_ids import read_kept
from mailserver.store.locks import HeldMbox, MboxLocks
from mailserver.store.maildrop import Maildrop, MaildropLock
from mailserver.store.mbox_file import Region
from mailserver.store.mbox_messages import MboxMessage, content_of, measure, messages_of, unique_ids
from mailserver.store.mbox_rewrite import rewrite_without
from mailserver.store.octets import is_in_memory, open_regular, to_crlf
from mailserver.store.trash import append_copies, copy_regions, deleted_mboxes
from mailserver.values.listing import Listings


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
        self._messages: list[MboxMessage] = []
        with locks.hold(path) as held:
            if held.fd >= 0:
                # Not a copy of the held descriptor, which would keep the lock for the whole session.
                self._fd = open_regular(path)
                self._messages = messages_of(self._fd, held.size)
                self._seen = _state(self._fd)
        self._ids = unique_ids(self._messages)
        kept = read_kept(path)
        listed = [kept.get(identity, identity) for identity in self._ids]
        super().__init__(lock, Listings([message.octets for message in self._messages], listed))

    def read(self, index: int) -> Iterator[bytes]:
        """The message in canonical form, in pieces; ``FileNotFoundError`` when it has vanished, or when
        another program changes the mailbox so that what was given may be wrong."""
        before = _state(self._fd)  # what changes from here on is met by one look or by the other
        if self._has_moved(index):
            self._look_again()
            before = _state(self._fd)
            if self._has_moved(index):
                raise FileNotFoundError(errno.ENOENT, "the message was removed or changed by another program")
        return to_crlf(self._checked(index, before))

    def whole(self, index: int) -> bytes | None:
        """See ``IMaildrop``; ``None`` also when the message must be looked for, which takes locks."""
        before = _state(self._fd)
        if not is_in_memory(self._fd, *self._messages[index].region) or self._has_moved(index):
            return None
        try:
            content = b"".join(to_crlf(self._checked(index, before)))
        except FileNotFoundError:
            return None
        return content if self._is_as_listed(index, content) else None

    def _has_moved(self, index: int) -> bool:
        message = self._messages[index]
        return _state(self._fd) != self._seen and measure(self._fd, message.region) != message

    def _look_again(self) -> None:
        """Find every message where it is now: Dovecot and mutt change an mbox where it lies."""
        with suppress(MailboxUnavailable), self._locks.hold(self._path) as held:
            if held.fd < 0:
                return
            before, self._fd = self._fd, open_regular(self._path)
            os.close(before)
            now = messages_of(self._fd, held.size)
            found = dict(zip(unique_ids(now), now, strict=True))
            self._messages = [
                found.get(identity, message)
                for identity, message in zip(self._ids, self._messages, strict=True)
            ]

    def _checked(self, index: int, before: object) -> Iterator[bytes]:
        """The message, which was where it should be when the file was as ``before``."""
        yield from content_of(self._fd, self._messages[index].region)
        if _state(self._fd) != before and self._has_moved(index):
            raise FileNotFoundError(errno.ENOENT, "the message was changed by another program meanwhile")

    def release(self) -> None:
        """Give up the lock and the file. Harmless twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)
        super().release()

    def _remove(self, indexes: list[int]) -> int:
        """Find the marked messages anew, since the file may have grown or been rewritten meanwhile."""
        wanted = {self._ids[index] for index in indexes}
        removed = 0
        with suppress(OSError, MailboxUnavailable), self._locks.hold(self._path) as held:
            if held.fd < 0:
                return 0
            now = messages_of(held.fd, held.size)
            going = [
                message.region
                for message, identity in zip(now, unique_ids(now), strict=True)
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
    there = {message.digest for message in messages_of(held.fd, held.size)}
    count = 0
    for path, fd in deleted_mboxes(held.path, since):
        missing = [m for m in messages_of(fd, os.fstat(fd).st_size) if m.digest not in there]
        if missing:
            append_copies(disk, held, fd, [message.region for message in missing])
            count += len(missing)
            there.update(message.digest for message in missing)
        disk.remove(path)
    return count


def _state(fd: int) -> tuple[int, int]:
    now = os.fstat(fd)
    return now.st_size, now.st_mtime_ns
