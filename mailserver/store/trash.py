"""What POP3 has deleted, kept for a while: ``trash/SECOND/`` in a Maildir, ``NAME.mbox.trash/SECOND``.

States of a deletion.  Maildir: a message has its name, and then one in the trash too, which is
synced before the first one goes; the way back is the same.  mbox: the copy in the trash is synced
before the mbox is rewritten.  So a crash between leaves both; bringing back leaves out what the
mailbox still has, by unique id.  What comes back has the unique id that it had.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

from mailserver.durable import Disk
from mailserver.store.locks import HeldMbox
from mailserver.store.mbox_file import Region, separator
from mailserver.store.octets import open_regular, pieces_of
from mailserver.store.paths import MBOX, TRASH

_UNFINISHED = "unfinished"
FOLDER = "trash"
"""In a Maildir; no folder of Maildir++, whose names begin with a dot."""


def folder_of(path: str) -> str:
    """Where a mailbox's trash is."""
    return path + TRASH if path.endswith(MBOX) else f"{path}/{FOLDER}"


def deletions(path: str) -> list[tuple[int, str]]:
    """When something was deleted, in seconds since the epoch, and where it lies; the oldest first."""
    folder = folder_of(path)
    with suppress(FileNotFoundError, NotADirectoryError):
        return sorted((int(name), f"{folder}/{name}") for name in os.listdir(folder) if name.isdecimal())
    return []


def sweep_trash(path: str, older: float) -> int:
    """Remove for good what was deleted before ``older``; how many deletions."""
    swept = 0
    for second, where in deletions(path):
        if second < older:
            if os.path.islink(where) or os.path.isfile(where):
                os.unlink(where)
            else:
                shutil.rmtree(where)
            swept += 1
    return swept


def new_folder(disk: Disk, maildir: str) -> str:
    """A folder for what is deleted now, durably made."""
    folder = f"{folder_of(maildir)}/{int(time.time())}"
    disk.make_folder(folder)
    return folder


def bring_back_maildir(disk: Disk, maildir: str, since: float) -> int:
    """Move what was deleted at ``since`` or later into ``new`` again; how many messages.

    Raises:
        OSError: the disk's own reason; each message is in one of both places.
    """
    there = {
        name.partition(":")[0] for folder in ("new", "cur") for name in os.listdir(f"{maildir}/{folder}")
    }
    count = 0
    for second, where in deletions(maildir):
        if second < since or os.path.islink(where):
            continue
        for entry in list(os.scandir(where)):
            if entry.is_file(follow_symlinks=False) and entry.name not in there:
                disk.link(entry.path, f"{maildir}/new/{entry.name}")
                there.add(entry.name)
                count += 1
        disk.sync_folder(f"{maildir}/new")
        for entry in list(os.scandir(where)):
            if entry.name in there:
                disk.remove(entry.path)
        with suppress(OSError):
            os.rmdir(where)
    return count


def copy_regions(disk: Disk, held: HeldMbox, regions: Sequence[Region]) -> None:
    """Put messages of a locked mbox into its trash, durably, before they are removed."""
    folder = folder_of(held.path)
    disk.make_folder(folder)
    second = int(time.time())
    while os.path.lexists(path := f"{folder}/{second}"):
        second += 1
    unfinished = f"{folder}/{_UNFINISHED}"
    with suppress(FileNotFoundError):
        disk.remove(unfinished)  # a crash has left it
    try:
        with disk.create(unfinished) as file:
            for start, end in regions:
                for piece in pieces_of(held.fd, start, end):
                    file.write(piece)
                file.write(separator(held.fd, end))
            file.sync()
        disk.rename(unfinished, path)
    except BaseException:
        with suppress(OSError):
            disk.remove(unfinished)
        raise
    disk.sync_folder(folder)


def deleted_mboxes(path: str, since: float) -> Iterator[tuple[str, int]]:
    """The trash's mboxes since then, each with a descriptor open for reading, closed afterwards."""
    for second, where in deletions(path):
        if second >= since:
            fd = open_regular(where)
            try:
                yield where, fd
            finally:
                os.close(fd)


def append_copies(disk: Disk, held: HeldMbox, fd: int, regions: Sequence[Region]) -> None:
    """Write messages from the trash to the end of a locked mbox, durably; cut it back when that fails."""
    size = held.size
    with disk.extend(held.path) as file:
        try:
            file.write(separator(held.fd, size))
            for start, end in regions:
                for piece in pieces_of(fd, start, end):
                    file.write(piece)
            file.sync()
        except BaseException:
            with suppress(OSError):
                file.truncate(size)
            raise
