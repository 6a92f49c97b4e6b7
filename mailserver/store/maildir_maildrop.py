"""POP3's view of a Maildir: listed by names alone, read from the files, removed at QUIT."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import FileIO
from typing import NamedTuple, TypeVar

from mailserver.durable import Disk
from mailserver.interfaces import Listing
from mailserver.store.maildirsize import stored_octets
from mailserver.store.maildrop import Maildrop, MaildropLock, unique_id
from mailserver.store.octets import READ_OCTETS, CrlfCount, open_regular, to_crlf
from mailserver.store.order import in_order
from mailserver.store.quota import MailboxQuota
from mailserver.store.trash import new_folder

T = TypeVar("T")

_FOLDERS = ("new", "cur")
_SENT = re.compile(r",W=([0-9]{1,15})(?=,|$)")
_SECOND = re.compile(r"[0-9]{1,15}")
_SCANS = 3


class _Message(NamedTuple):
    """``base`` is the file's name without its flags, by which it is found again when they change."""

    second: int
    base: str
    path: str


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
        quota: MailboxQuota | None = None,
        undelete: bool = False,
    ) -> None:
        """``sizes`` remembers what was counted for names without ``,W=``, over all sessions."""
        self._disk = disk
        self._mailbox = mailbox
        self._quota = quota
        self._undelete = undelete
        self._messages: list[_Message] = []
        listings: list[Listing] = []
        for message in in_order(_scan(mailbox)):
            octets = _octets(message, sizes)
            if octets is not None:
                self._messages.append(message)
                listings.append(Listing(octets, unique_id(message.base)))
        super().__init__(lock, listings)

    def read(self, index: int) -> Iterator[bytes]:
        """The message in canonical form, in pieces; ``OSError`` when it has vanished."""
        fd = self._found(index, open_regular)
        return to_crlf(_pieces(fd))

    def _remove(self, indexes: list[int]) -> int:
        failed = 0
        gone: list[str] = []
        folders: dict[str, int] = {}
        if self._undelete:
            with suppress(OSError):  # a full disk must not keep anybody from making room
                self._keep(indexes)
        for index in indexes:
            try:
                self._found(index, self._disk.remove)
            except FileNotFoundError:
                continue  # somebody else has removed it
            except OSError:
                failed += 1
                continue
            gone.append(self._messages[index].base)
            folder = os.path.dirname(self._messages[index].path)
            folders[folder] = folders.get(folder, 0) + 1
        for folder, removed in folders.items():
            try:
                self._disk.sync_folder(folder)
            except OSError:
                failed += removed  # gone now, but perhaps back after a power cut
        if self._quota is not None:
            self._count_removed(self._quota, gone)
        return failed

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

    def _found(self, index: int, use: Callable[[str], T]) -> T:
        """``use`` on the message's path, after a look for its new one if a reader has renamed it."""
        message = self._messages[index]
        try:
            return use(message.path)
        except FileNotFoundError:
            for folder in _FOLDERS:
                for name in os.listdir(f"{self._mailbox}/{folder}"):
                    if name.partition(":")[0] == message.base:
                        self._messages[index] = message._replace(path=f"{self._mailbox}/{folder}/{name}")
                        return use(self._messages[index].path)
            raise


def _base(path: str) -> str:
    return os.path.basename(path).partition(":")[0]


def _scan(mailbox: str) -> list[_Message]:
    """Every message; scanned again while readers rename files, which could hide one from a scan.

    ``new`` comes first, so that a message on its way to ``cur`` is met at least once.
    """
    found: dict[str, str] = {}
    for _ in range(_SCANS):
        before = _changes(mailbox)
        found = {
            entry.name.partition(":")[0]: entry.path
            for folder in _FOLDERS
            for entry in os.scandir(f"{mailbox}/{folder}")
            # A name with a line end is nobody's message; only regular files are opened.
            if entry.name[0] != "." and "\n" not in entry.name and entry.is_file(follow_symlinks=False)
        }
        if _changes(mailbox) == before:
            break
    return [_Message(_second(base), base, path) for base, path in found.items()]


def _changes(mailbox: str) -> list[int]:
    return [os.stat(f"{mailbox}/{folder}").st_mtime_ns for folder in _FOLDERS]


def _second(base: str) -> int:
    digits = _SECOND.match(base)
    return int(digits[0]) if digits else 0


def _octets(message: _Message, sizes: dict[str, int]) -> int | None:
    """The message's size on the wire; ``None`` when it has to be counted and cannot be read."""
    said = _SENT.search(message.base)
    if said:
        return int(said[1])
    octets = sizes.get(message.base)
    if octets is None:
        count = CrlfCount()
        try:
            for piece in _pieces(open_regular(message.path)):
                count.add(piece)
        except OSError:
            return None
        octets = sizes[message.base] = count.total
    return octets


def _pieces(fd: int) -> Iterator[bytes]:
    """The octets of the open file, which is closed with the iterator, started or not."""
    return _read(open(fd, "rb", buffering=0))


def _read(file: FileIO) -> Iterator[bytes]:
    with file:
        while piece := file.read(READ_OCTETS):
            yield piece
