"""An mbox without some of its messages: written beside it, synced, then put in its place."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress

from mailserver.durable import Disk, DurableFile
from mailserver.store.locks import HeldMbox
from mailserver.store.mbox_file import Region
from mailserver.store.octets import pieces_of
from mailserver.store.paths import REWRITE


def rewrite_without(disk: Disk, held: HeldMbox, removed: Sequence[Region]) -> None:
    """Leave ``removed`` (in order, no overlaps) out of a locked mbox, durably.

    Raises:
        OSError: the disk's own reason; the mbox is as it was, unless only the last sync failed.
    """
    beside = held.path + REWRITE
    with suppress(FileNotFoundError):
        disk.remove(beside)  # a crash has left it
    try:
        with disk.create(beside) as file:
            _keep_owner_and_mode(held.fd, file)
            for start, end in _kept(removed, held.size):
                for piece in pieces_of(held.fd, start, end):
                    file.write(piece)
            file.sync()
        held.adopt(beside)
        disk.rename(beside, held.path)
    except BaseException:
        with suppress(OSError):
            disk.remove(beside)
        held.close()
        held.lock()
        raise
    disk.sync_folder(os.path.dirname(held.path))


def _kept(removed: Sequence[Region], size: int) -> Iterator[Region]:
    at = 0
    for start, end in removed:
        if at < start:
            yield at, start
        at = end
    if at < size:
        yield at, size


def _keep_owner_and_mode(fd: int, file: DurableFile) -> None:
    before = os.fstat(fd)
    os.fchmod(file.fd, stat.S_IMODE(before.st_mode))
    with suppress(PermissionError):
        os.fchown(file.fd, -1, before.st_gid)
