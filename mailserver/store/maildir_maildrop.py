"""POP3's view of a Maildir: listed by names alone, read from the files, removed at QUIT."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TypeVar

from mailserver.durable import Disk
from mailserver.store.kept_ids import read_kept
from mailserver.store.maildir_index import FolderState, states
from mailserver.store.maildir_snapshot import FOLDERS, Snapshots, base_of, path_of, paths_of, pieces, snapshot
from mailserver.store.maildirsize import stored_octets
from mailserver.store.maildrop import Maildrop, MaildropLock
from mailserver.store.octets import READ, at_once, canonical, open_regular, to_crlf
from mailserver.store.quota import MailboxQuota
from mailserver.store.trash import new_folder
from mailserver.values.listing import Listings

T = TypeVar("T")


class MaildirMaildrop(Maildrop):
    """A snapshot in the order of arrival.

    A size comes from the name's ``,W=`` without opening the file; where another program has written
    a wrong one, the listing repeats it, while ``read`` still gives exactly what the file holds.
    Messages keep their unique id, the base name, when a reader moves or flags them.
    """

    def __init__(
        self,
        disk: Disk,
        mailbox: str,
        lock: MaildropLock,
        sizes: dict[str, int],
        remembered: Snapshots,
        quota: MailboxQuota | None = None,
        undelete: bool = False,
    ) -> None:
        """``sizes`` remembers what was counted for names without ``,W=``, over all sessions, and
        ``remembered`` whole listings."""
        self._disk = disk
        self._mailbox = mailbox
        self._quota = quota
        self._undelete = undelete
        taken = snapshot(disk, mailbox, sizes, remembered)
        self._names = taken.names
        self._moved: dict[str, str] | None = None
        self._moved_at: list[FolderState] = []
        ids = taken.unique_ids
        if kept := read_kept(mailbox):
            ids = [kept.get(identity, identity) for identity in ids]
        super().__init__(lock, Listings(taken.octets, ids))

    def read(self, index: int) -> Iterator[bytes]:
        """The message in canonical form, in pieces; ``OSError`` when it has vanished."""
        return to_crlf(pieces(self._found(index, open_regular)))

    def whole(self, index: int) -> bytes | None:
        """See ``IMaildrop``."""
        try:
            fd = os.open(path_of(self._mailbox, self._names[index]), READ)
            try:
                stored = at_once(fd)
            finally:
                os.close(fd)
        except OSError:
            return None  # not in memory, or renamed, or gone: whoever reads it in a thread finds out
        content = canonical(stored)
        # A part of it has another size, and so has what is no regular file any more.
        return content if content and len(content) == self.listings.octets[index] else None

    def _remove(self, indexes: list[int]) -> int:
        if self._undelete:
            with suppress(OSError):  # a full disk must not keep anybody from making room
                self._keep(indexes)
        gone: list[str] = []
        missing, failed = self._unlink(indexes, gone)
        if missing:
            self._moved = None  # one more look for those that were flagged in this moment
            _, failed_again = self._unlink(missing, gone)  # what is missing now, somebody else has removed
            failed += failed_again
        for folder, removed in Counter(map(os.path.dirname, gone)).items():
            try:
                self._disk.sync_folder(folder)
            except OSError:
                failed += removed  # gone now, but perhaps back after a power cut
        if self._quota is not None:
            self._count_removed(self._quota, [_base(path) for path in gone])
        return failed

    def _unlink(self, indexes: list[int], gone: list[str]) -> tuple[list[int], int]:
        """Remove files, whose paths are added to ``gone``; which are missing, and how many cannot go."""
        missing: list[int] = []
        failed = 0
        for index in indexes:
            try:
                gone.append(self._found(index, self._remove_file, patient=True))
            except FileNotFoundError:
                missing.append(index)
            except OSError:
                failed += 1
        return missing, failed

    def _remove_file(self, path: str) -> str:
        self._disk.remove(path)
        return path

    @staticmethod
    def _count_removed(quota: MailboxQuota, gone: list[str]) -> None:
        sizes = [stored_octets(base) for base in gone]
        known = [size for size in sizes if size is not None]
        if len(known) == len(sizes):
            quota.add(-sum(known), -len(known))
        else:
            quota.forget()

    def _keep(self, indexes: list[int]) -> None:
        """A second name in the trash for each, durably; before the first one goes."""
        trash = new_folder(self._disk, self._mailbox)
        for index in indexes:
            with suppress(FileNotFoundError):
                self._found(index, lambda path: self._disk.link(path, f"{trash}/{_base(path)}"))
        self._disk.sync_folder(trash)

    def _found(self, index: int, use: Callable[[str], T], patient: bool = False) -> T:
        """``use`` on the message's path, after a look for its new one if a reader has renamed it.

        ``patient``: a look that was taken before will do, for each removal of ours changes the folder.
        """
        name = self._names[index]
        for path in paths_of(self._mailbox, name):
            with suppress(FileNotFoundError):
                return use(path)
        self._look(patient)
        assert self._moved is not None
        found = self._moved.get(base_of(name))
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "the message is gone", name)
        return use(found)

    def _look(self, patient: bool) -> None:
        """Where every message is now, by the bases of their names."""
        if self._moved is not None and patient:
            return
        now = states(self._mailbox, FOLDERS)
        if self._moved is None or now != self._moved_at:
            self._moved_at = now
            self._moved = {
                base_of(name): f"{self._mailbox}/{folder}/{name}"
                for folder in FOLDERS
                for name in os.listdir(f"{self._mailbox}/{folder}")
            }


def _base(path: str) -> str:
    return base_of(os.path.basename(path))
