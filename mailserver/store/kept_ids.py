"""Unique ids that messages have brought with them, from another server or the other format.

A message without a line here has the id that its format gives it (its file's name, its hash).  The
file is written before the messages it tells of come, and only grows when some come: so its length
is bounded by what was imported, and no id can be given to another message.  Each line: the id, a
blank, the id that the format would give.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

from mailserver.durable import Disk
from mailserver.store.paths import KEPT_IDS, MBOX

NAME = "unique-ids"
"""The file in a Maildir."""

_UNFINISHED = ".unfinished"


def kept_path(path: str) -> str:
    """The file of the mailbox at ``path``."""
    return path + KEPT_IDS if path.endswith(MBOX) else f"{path}/{NAME}"


def read_kept(path: str) -> dict[str, str]:
    """Kept ids of a mailbox, by what its format would give; lines that are no pair of ids do not count.

    Raises:
        OSError: the file is there and cannot be read: then nobody may be told ids that are not the kept ones.
    """
    try:
        fd = os.open(kept_path(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return {}
    with open(fd, "rb") as file:
        lines = file.read().split(b"\n")
    kept: dict[str, str] = {}
    for line in lines:
        identity, _, natural = line.decode("ascii", "replace").partition(" ")
        if is_unique_id(identity) and is_unique_id(natural):
            kept[natural] = identity
    return kept


def write_kept(disk: Disk, path: str, kept: Mapping[str, str]) -> None:
    """Replace the mailbox's kept ids, durably and at once; without any the file goes."""
    wanted = kept_path(path)
    unfinished = wanted + _UNFINISHED
    with suppress(FileNotFoundError):
        disk.remove(unfinished)
    if kept:
        lines = "".join(f"{identity} {natural}\n" for natural, identity in kept.items())
        with disk.create(unfinished) as file:
            file.write(lines.encode("ascii"))
            file.sync()
        disk.rename(unfinished, wanted)
    else:
        with suppress(FileNotFoundError):
            disk.remove(wanted)
    disk.sync_folder(os.path.dirname(wanted))


def is_unique_id(text: str) -> bool:
    """Whether UIDL may carry it: 1 to 70 characters 0x21 to 0x7E (RFC 1939 §7)."""
    return 0 < len(text) <= 70 and text.isascii() and text.isprintable() and " " not in text
