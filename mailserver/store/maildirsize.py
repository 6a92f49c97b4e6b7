"""Maildir++'s ``maildirsize``: what a Maildir and its folders hold, kept by all programs that write to it.

The first line is the quota, each further one adds octets and messages; a file that is too long, cannot
be understood or is made for another quota is counted anew (Maildir++, "Quotas and maildirsize").
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress

NAME = "maildirsize"

_LONGEST = 5120  # Maildir++: count anew rather than read more
_STALE_SECONDS = 15 * 60.0
_STORED = re.compile(r",S=([0-9]{1,15})(?=[,:]|$)")
_YIELD = 500
Usage = tuple[int, int]
"""Octets and messages."""


def stored_octets(name: str) -> int | None:
    """What a file's name says of its octets on the disk."""
    said = _STORED.search(name)
    return int(said[1]) if said else None


def read(maildir: str, definition: str) -> Usage | None:
    """What the file says; ``None`` when everything has to be counted."""
    try:
        with open(f"{maildir}/{NAME}", "rb") as file:
            octets = file.read(_LONGEST + 1)
    except OSError:
        return None
    lines = octets.decode("ascii", "replace").splitlines()
    if len(octets) > _LONGEST or not lines or lines[0] != definition or not octets.endswith(b"\n"):
        return None
    total = messages = 0
    for line in lines[1:]:
        fields = line.split()
        if len(fields) != 2 or not all(re.fullmatch(r"-?[0-9]{1,18}", field) for field in fields):
            return None
        total += int(fields[0])
        messages += int(fields[1])
    return (total, messages) if total >= 0 and messages >= 0 else None


def may_be_stale(maildir: str) -> bool:
    """Whether a mailbox that seems full should be counted anew, since others may have removed messages."""
    try:
        return time.time() - os.stat(f"{maildir}/{NAME}").st_mtime > _STALE_SECONDS
    except OSError:
        return True


def count(maildir: str) -> Usage:
    """Look at every message, also those in folders, but not in ``.Trash``."""
    octets = messages = 0
    for folder in _folders(maildir):
        with suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                if messages % _YIELD == 0:
                    time.sleep(0)  # others may run
                if entry.name.startswith("."):
                    continue
                size = stored_octets(entry.name)
                if size is None:
                    with suppress(OSError):
                        size = entry.stat(follow_symlinks=False).st_size
                octets += size or 0
                messages += 1
    return octets, messages


def write(maildir: str, definition: str, usage: Usage) -> None:
    """Put a counted file into its place; a crash at any moment costs no more than another count."""
    temporary = f"{maildir}/tmp/{NAME}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, f"{definition}\n{usage[0]} {usage[1]}\n".encode())
    finally:
        os.close(fd)
    os.rename(temporary, f"{maildir}/{NAME}")


def add(maildir: str, octets: int, messages: int) -> int:
    """One more line; by how much the file has grown. Without a file there is nothing to keep."""
    with suppress(OSError):
        fd = os.open(f"{maildir}/{NAME}", os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return os.write(fd, f"{octets} {messages}\n".encode())
        finally:
            os.close(fd)
    return 0


def _folders(maildir: str) -> Iterator[str]:
    yield from (f"{maildir}/new", f"{maildir}/cur")
    with suppress(FileNotFoundError):
        for name in os.listdir(maildir):
            if name[0] == "." and name.strip(".") and name != ".Trash" and not name.startswith(".Trash."):
                yield from (f"{maildir}/{name}/new", f"{maildir}/{name}/cur")
