"""What a Maildir held when it was last listed: a cache on the disk, which is believed only while it is true.

A file is added to, removed from or renamed in a folder only with a change of the folder's times; so
an index that tells the times of both folders is right as long as they are the same.  A change in the
very moment of the scan may leave no trace in them, which is why nothing is written before they are two
seconds old.  Whatever is wrong with the file (cut short, of another version, of another machine's
byte order, garbage): it is not there.  It is never synced, for nothing is lost with it.
"""

from __future__ import annotations

import os
import struct
import sys
import time
import zlib
from array import array
from collections.abc import Sequence
from contextlib import suppress

from mailserver.durable import Disk
from mailserver.store.octets import open_regular
from mailserver.store.order import give_way, in_parts

FILE_NAME = "maildrop.index"
FEWEST = 500
"""A Maildir of fewer messages is listed as fast without."""

OLD_SECONDS = 2.0

FolderState = tuple[int, int, int, int]
"""Device, inode, and the times of the last change of content and of state, in nanoseconds."""

_MAGIC = b"mailserver maildrop index 1 " + sys.byteorder[:1].encode() + b"\n"
_HEAD = struct.Struct("<8q3QI")  # two folders; messages, octets of names, octets of ids; a checksum
_MOST_OCTETS = 2**30
_PART_OCTETS = 128 * 1024


def states(mailbox: str, folders: Sequence[str]) -> list[FolderState]:
    """What changes with every change in the folders.

    Raises:
        OSError: one of them is not there.
    """
    found = [os.stat(f"{mailbox}/{folder}", follow_symlinks=False) for folder in folders]
    return [(s.st_dev, s.st_ino, s.st_mtime_ns, s.st_ctime_ns) for s in found]


def read(
    mailbox: str, now: Sequence[FolderState]
) -> tuple[Sequence[str], Sequence[int], Sequence[str]] | None:
    """Names, octets and ids of a Maildir whose folders are as they were; ``None`` for anything else."""
    with suppress(OSError, ValueError, struct.error):
        with open(open_regular(f"{mailbox}/{FILE_NAME}"), "rb", buffering=0) as file:
            head = file.read(len(_MAGIC) + _HEAD.size)
            if not head.startswith(_MAGIC):
                return None
            *told, count, names_end, ids_end, checksum = _HEAD.unpack(head[len(_MAGIC) :])
            if told != _flat(now) or count * 8 + names_end + ids_end > _MOST_OCTETS:
                return None
            payload = file.read(count * 8 + names_end + ids_end + 1)
        if len(payload) != count * 8 + names_end + ids_end or zlib.crc32(payload) != checksum:
            return None
        octets = array("Q", payload[: count * 8])
        names = _split(payload[count * 8 : count * 8 + names_end])
        ids = _split(payload[count * 8 + names_end :]) if ids_end else _bases(names)
        if len(names) == len(ids) == count:
            return names, octets, ids
    return None


def are_settled(mailbox: str, seen: Sequence[FolderState]) -> bool:
    """Whether what was read of the folders cannot be wrong: they are as they were, and have been a while."""
    if time.time_ns() - max(max(state[2:]) for state in seen) < OLD_SECONDS * 1e9:
        return False
    try:
        return states(mailbox, ("new", "cur")) == list(seen)
    except OSError:
        return False


def write(
    disk: Disk,
    mailbox: str,
    seen: Sequence[FolderState],
    names: Sequence[str],
    octets: Sequence[int],
    unique_ids: Sequence[str],
) -> None:
    """Remember a listing of folders that ``are_settled``, if it is worth it and there is room."""
    if len(names) < FEWEST:
        return
    with suppress(OSError):
        joined, ids = _joined(names), _joined(unique_ids)
        if ids == joined:
            ids = b""
        payload = b"".join((array("Q", octets).tobytes(), joined, ids))
        head = _HEAD.pack(*_flat(seen), len(names), len(joined), len(ids), zlib.crc32(payload))
        _replace(disk, f"{mailbox}/{FILE_NAME}", (_MAGIC + head, payload))


def _replace(disk: Disk, path: str, pieces: Sequence[bytes]) -> None:
    unfinished = path + ".unfinished"
    with suppress(FileNotFoundError):
        disk.remove(unfinished)
    try:
        disk.write(unfinished, pieces)
        disk.rename(unfinished, path)
    except BaseException:
        with suppress(OSError):
            disk.remove(unfinished)
        raise


def _flat(seen: Sequence[FolderState]) -> list[int]:
    return [number for state in seen for number in state]


def _split(octets: bytes) -> list[str]:
    """Names of files, none of which leads elsewhere."""
    if b"/" in octets or b"\0" in octets:
        raise ValueError
    names: list[str] = []
    start = 0
    while start <= len(octets):
        end = octets.find(b"\n", start + _PART_OCTETS)
        if end < 0:
            end = len(octets)
        names += os.fsdecode(octets[start:end]).split("\n")
        start = end + 1
        give_way()
    return names


def _bases(names: Sequence[str]) -> list[str]:
    return [name.partition(":")[0] for part in in_parts(names) for name in part]


def _joined(names: Sequence[str]) -> bytes:
    return b"\n".join([os.fsencode("\n".join(part)) for part in in_parts(names)])
