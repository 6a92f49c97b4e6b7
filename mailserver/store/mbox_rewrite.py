"""An mbox without some of its messages, or with more: written beside it, synced, then put in its place."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain

from mailserver.durable import Disk, DurableFile
from mailserver.store.locks import HeldMbox
from mailserver.store.mbox_file import Region, from_line, separator
from mailserver.store.octets import pieces_of
from mailserver.store.paths import REWRITE
from mailserver.values.address import NULL_SENDER


def rewrite_without(disk: Disk, held: HeldMbox, removed: Sequence[Region]) -> None:
    """Leave ``removed`` (in order, no overlaps) out of a locked mbox, durably.

    Raises:
        OSError: the disk's own reason; the mbox is as it was, unless only the last sync failed.
    """
    _replace(disk, held, _octets_of(held.fd, _kept(removed, held.size)))


def rewrite_with(disk: Disk, held: HeldMbox, more: int) -> None:
    """Put what the descriptor ``more`` holds, messages of an mbox, at the end of a locked mbox: all of
    it or nothing, durably; ``OSError`` as above."""
    octets = chain(_octets_of(held.fd, [(0, held.size)]), (separator(held.fd, held.size),), pieces_of(more))
    _replace(disk, held, octets)


def rewrite_with_beginning(disk: Disk, held: HeldMbox) -> None:
    """Put a From_ line before a locked mbox that has none, so that its first text becomes a message;
    ``OSError`` as above."""
    line = from_line(NULL_SENDER, os.fstat(held.fd).st_mtime)
    _replace(disk, held, chain((line,), _octets_of(held.fd, [(0, held.size)])))


def _replace(disk: Disk, held: HeldMbox, octets: Iterable[bytes]) -> None:
    beside = held.path + REWRITE
    with suppress(FileNotFoundError):
        disk.remove(beside)  # a crash has left it
    try:
        with disk.create(beside) as file:
            _keep_owner_and_mode(held.fd, file)
            for piece in octets:
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


def _octets_of(fd: int, regions: Iterable[Region]) -> Iterator[bytes]:
    for start, end in regions:
        yield from pieces_of(fd, start, end)


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
