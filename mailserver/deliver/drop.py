"""The drop folder: where any local user may put a message for the server, which may be down.

The folder's mode is 1733: everybody may add a file, nobody but its owner (the server) may list it or
remove what is another's.  What the server's own user writes has mode 0600.  Another's file has 0644, for
the server could not read it otherwise; but its name cannot be guessed, so nobody else can open it.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mailserver.values.address import Address, address_from

FOLDER = "drop"
"""Its name in the state folder."""

FOLDER_MODE = 0o1733
SUFFIX = ".mail"
WRONG = ".wrong"
"""What a file is called that the server could not take; it stays for the administrator to look at."""

_HEAD_OCTETS = 8 * 1024 * 1024


class DropWrong(Exception):
    """The file is no message that can be taken; the text says why."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A message from the folder: canonical ``content`` (CRLF), and the ``uid`` of who put it there."""

    sender: Address
    recipients: tuple[Address, ...]
    content: bytes
    uid: int


def make_folder(path: Path) -> None:
    """Make the folder, or give it its mode. Raises ``OSError``."""
    path.mkdir(exist_ok=True)
    if stat.S_IMODE(path.lstat().st_mode) != FOLDER_MODE:
        path.chmod(FOLDER_MODE)


def put(folder: Path, sender: Address, recipients: Sequence[Address], content: bytes) -> str:
    """Put a message into the folder; it is on the disk when this returns. The file's name.

    Raises:
        OSError: it cannot be put there; nothing is left behind.
    """
    head = json.dumps({"from": _written(sender), "to": [_written(one) for one in recipients]})
    name = secrets.token_hex(16)
    hidden, whole = folder / f".{name}", folder / f"{name}{SUFFIX}"
    mode = 0o600 if folder.lstat().st_uid == os.geteuid() else 0o644
    fd = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            os.fchmod(fd, mode)  # whatever the umask
            with open(fd, "wb", closefd=False) as file:
                file.write(head.encode() + b"\n" + content)
            os.fsync(fd)
            os.rename(hidden, whole)
            os.fsync(fd)  # the new name too: the folder cannot be opened by who may not list it
        finally:
            os.close(fd)
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise
    return whole.name


def read(path: Path, most: int) -> Dropped:
    """What a file holds, of at most ``most`` octets of content.

    Raises:
        DropWrong: it is nothing that can be taken.
        OSError: it cannot be read now.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        # A link to another's file must not make its content somebody's mail.
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise DropWrong("not a regular file with one name")
        head = file.readline(_HEAD_OCTETS)
        content = file.read(most + 1)
    if len(content) > most:
        raise DropWrong(f"longer than limits.message_size = {most}")
    try:
        fields = json.loads(head)
        sender = address_from(fields["from"]) if fields["from"] else Address("", "")
        recipients = tuple(address_from(one) for one in fields["to"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DropWrong(f"no envelope in its first line: {error!r}") from error
    if not recipients:
        raise DropWrong("nobody to send it to")
    return Dropped(sender, recipients, canonical(content), found.st_uid)


def canonical(content: bytes) -> bytes:
    """CRLF at the end of each line, of the last one too, and nowhere a bare CR or LF."""
    if not content:
        return content
    lines = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return (lines if lines.endswith(b"\n") else lines + b"\n").replace(b"\n", b"\r\n")


def _written(address: Address) -> str:
    return f"{address.local}@{address.domain}" if address.local else ""
