"""One message into one Maildir: names, folders, and what an earlier attempt left behind.

States of a message here: nothing; a file in ``tmp`` (invisible, overwritten by the next attempt); a
file in ``new`` that is not synced (visible, perhaps torn after a power cut, and then found by its
name and mended by the next attempt, which the spool still owes); a synced file, for which alone a
delivery is done.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from typing import NamedTuple

from mailserver.durable import Disk, DurableFile
from mailserver.interfaces import Delivery, MailboxUnavailable
from mailserver.store.maildir_names import Names, find, key_of
from mailserver.store.octets import CrlfCount, crlf_octets, open_regular, to_lf
from mailserver.values.content import PiecesContent
from mailserver.values.line_ends import lf_text

IN_MEMORY_OCTETS = 256 * 1024
"""Content up to this size is written by one system call and synced with others; larger content is streamed
and synced by itself, for a sync of the file system would also write what others are still receiving."""

_WRITE_OCTETS = 512 * 1024


class Placed(NamedTuple):
    """A message in its mailbox, not yet synced; ``file`` is open where it has to be synced by itself;
    ``is_found``: an earlier attempt has left something of it."""

    path: str
    file: DurableFile | None = None
    is_found: bool = False


class MaildirWriter:
    """Puts messages into Maildirs, not yet synced. One for each store."""

    def __init__(self, disk: Disk, hostname: str, sync_each: bool = False) -> None:
        """``sync_each``: sync every file before it becomes visible, where there is no ``syncfs``."""
        self._disk = disk
        # Maildir's own escapes for what a host may not bring into a name.
        host = hostname.lower().replace("/", "\\057").replace(":", "\\072").replace(",", "\\054")
        self._host = host[:64]
        self.sync_each = sync_each
        self._filesystems: dict[int, str] = {}
        self._filesystem_of: dict[str, str] = {}
        self._is_far: dict[str, bool] = {}
        self._known: set[str] = set()
        self.names = Names()

    def filesystem(self, mailbox: str) -> str:
        """The folder to hand to ``Disk.sync_filesystem`` for a mailbox that was written to."""
        return self._filesystem_of[mailbox]

    def place(self, mailbox: str, delivery: Delivery) -> Placed:
        """Write the message and give it its name. The caller closes the file.

        Raises:
            MailboxUnavailable: the folders are not ours to write to.
            OSError: the disk's own reason. In both cases nothing is visible.
        """
        if mailbox in self._known:
            try:
                return self._place(mailbox, delivery)
            except FileNotFoundError:
                self._known.discard(mailbox)  # somebody has removed a folder
        self.prepare(mailbox)
        return self._place(mailbox, delivery)

    def is_quick(self, mailbox: str, delivery: Delivery) -> bool:
        """Whether ``place`` has nothing to do but to write a small file into folders that it knows, on a disk
        of this machine."""
        return (
            mailbox in self._known
            and delivery.content.size <= IN_MEMORY_OCTETS
            and not delivery.repeated
            and not self.sync_each
            and not self._is_far[self._filesystem_of[mailbox]]
        )

    def take_back(self, mailbox: str, delivery: Delivery) -> None:
        """Remove what ``place`` made, wherever a reader has moved it; used when the sync failed."""
        with suppress(OSError):  # the next attempt finds what is left, and compares it
            for path in find(mailbox, key_of(delivery)):
                self._disk.remove(path)

    def has(self, mailbox: str, delivery: Delivery) -> bool:
        """Whether an earlier attempt has left something of the message."""
        with suppress(OSError):
            return bool(self.names.find(mailbox, key_of(delivery)))
        return False

    def prepare(self, mailbox: str) -> None:
        """Make sure of the mailbox's folders: there, true folders, ours."""
        for folder in (mailbox, *(f"{mailbox}/{name}" for name in ("tmp", "new", "cur"))):
            try:
                found = os.lstat(folder)
            except FileNotFoundError:
                self._disk.make_folder(folder)
                found = os.lstat(folder)
            if not stat.S_ISDIR(found.st_mode):
                raise MailboxUnavailable(f"{_shown(folder, mailbox)} is not a folder")
            if found.st_uid != os.geteuid():
                raise MailboxUnavailable(f"{_shown(folder, mailbox)} belongs to another user")
        filesystem = self._filesystems.get(found.st_dev)
        if filesystem is None:
            # The first call must come before the first write: see Disk.sync_filesystem.
            named = mailbox
            while named in self._is_far:  # the disk keeps a descriptor of what was mounted here before
                named += "/."
            if not self.sync_each:
                self._disk.sync_filesystem(named)
            self._is_far[named] = self._disk.is_far(named)
            # Known to others, threads of log-ins among them, only when all of it is.
            filesystem = self._filesystems[found.st_dev] = named
        self._filesystem_of[mailbox] = filesystem
        self._known.add(mailbox)

    def _place(self, mailbox: str, delivery: Delivery) -> Placed:
        key = key_of(delivery)
        if delivery.repeated:
            return self._place_again(mailbox, delivery, key)
        return self._write(mailbox, delivery, key, f"{mailbox}/new/", "")

    def _place_again(self, mailbox: str, delivery: Delivery, key: str) -> Placed:
        """Leave exactly one whole copy, whatever earlier attempts left in ``new`` and ``cur``."""
        found = self.names.find(mailbox, key)
        whole = next((Placed(path) for path in found if _holds(path, delivery)), None)
        if whole is None:
            # A torn copy is replaced where it lies, with the flags that a reader gave it.
            folder, _, name = found[0].rpartition("/") if found else (f"{mailbox}/new", "", "")
            _, colon, flags = name.partition(":")
            whole = self._write(mailbox, delivery, key, f"{folder}/", colon + flags)
        elif self.sync_each:
            self._disk.sync_file(whole.path)
        for path in found:
            if path != whole.path:
                self._disk.remove(path)
        return whole._replace(is_found=bool(found))

    def _write(self, mailbox: str, delivery: Delivery, key: str, folder: str, flags: str) -> Placed:
        stem = key + self._host
        temporary = f"{mailbox}/tmp/{stem}"
        try:
            stored, sent, file = self._fill(temporary, delivery)
        except FileExistsError:
            self._disk.remove(temporary)  # an attempt that ended before its rename
            stored, sent, file = self._fill(temporary, delivery)
        path = f"{folder}{stem},S={stored},W={sent}{flags}"
        try:
            if self.sync_each:
                if file is not None:
                    file.sync()
                else:
                    self._disk.sync_file(temporary)
            self._disk.rename(temporary, path)
        except BaseException:
            if file is not None:
                file.close()
            with suppress(OSError):
                self._disk.remove(temporary)
            raise
        return Placed(path, file)

    def _fill(self, path: str, delivery: Delivery) -> tuple[int, int, DurableFile | None]:
        """Write the file; octets on the disk, octets on the wire, and the file where it stays open."""
        content = delivery.content
        if content.size > IN_MEMORY_OCTETS:
            return self._stream(path, delivery)
        octets = b"".join((delivery.header, *content.chunks()))
        text = lf_text(octets)
        if text is not None:  # all line ends are CRLF, so it was as it will be on the wire
            sent = len(octets) if octets.endswith(b"\n") or not octets else len(octets) + 2
        else:
            text = octets.replace(b"\r\n", b"\n")
            sent = crlf_octets(text)
        self._disk.write(path, (text,))
        return len(text), sent, None

    def _stream(self, path: str, delivery: Delivery) -> tuple[int, int, DurableFile]:
        stored = 0
        sent = _Canonical(delivery) if isinstance(delivery.content, PiecesContent) else CrlfCount()
        file = self._disk.create(path)
        try:
            for pieces in _together(_stored(delivery)):
                file.write(*pieces)
                for piece in pieces:
                    stored += len(piece)
                    sent.add(piece)
            file.start_sync()
        except BaseException:
            file.close()
            self._disk.remove(path)
            raise
        return stored, sent.total, file


def _shown(folder: str, mailbox: str) -> str:
    """A folder as a report to the sender may name it: without the path of the store."""
    return os.path.relpath(folder, os.path.dirname(mailbox))


def _together(pieces: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Pieces for one system call each: some hundred KiB, for at each the interpreter changes hands."""
    gathered: list[bytes] = []
    octets = 0
    for piece in pieces:
        gathered.append(piece)
        octets += len(piece)
        if octets >= _WRITE_OCTETS:
            yield gathered
            gathered, octets = [], 0
    if gathered:
        yield gathered


class _Canonical:
    """In the place of ``CrlfCount``, for content that lies in memory as it will be on the wire."""

    def __init__(self, delivery: Delivery) -> None:
        self._octets = len(delivery.header) + delivery.content.size
        self._last = b""

    def add(self, piece: bytes) -> None:
        self._last = piece or self._last

    @property
    def total(self) -> int:
        return self._octets if self._last.endswith(b"\n") else self._octets + 2


def _stored(delivery: Delivery) -> Iterator[bytes]:
    if isinstance(delivery.content, PiecesContent):
        # SMTP has looked at each of its line ends: no CR stands alone.
        return (piece.replace(b"\r", b"") for piece in (delivery.header, *delivery.content.pieces))
    return to_lf(chain((delivery.header,), delivery.content.chunks()))


def _holds(path: str, delivery: Delivery) -> bool:
    """Whether the file has exactly the message's octets."""
    try:
        fd = open_regular(path)
    except OSError:
        return False
    try:
        at = 0
        for piece in _stored(delivery):
            if os.pread(fd, len(piece), at) != piece:
                return False
            at += len(piece)
        return os.fstat(fd).st_size == at
    finally:
        os.close(fd)
