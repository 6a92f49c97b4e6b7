"""The messages of a mailbox, ours or from elsewhere, with all that is known of each beside its content.

What conversion, import, export and verification read; POP3 has its own, faster ways.
"""

from __future__ import annotations

import math
import os
import re
import time
from calendar import timegm
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from mailserver.store.kept_ids import read_kept
from mailserver.store.maildrop import unique_id
from mailserver.store.mbox_messages import content_of, messages_of, unique_ids
from mailserver.store.octets import open_regular, pieces_of, to_lf
from mailserver.store.paths import MBOX

FOLDERS = ("new", "cur")

_SECOND = re.compile(r"[0-9]{9,15}(?![0-9])")
_HEADER_OCTETS = 64 * 1024
_STATUS = {"R": "S"}
_X_STATUS = {"A": "R", "F": "F", "D": "T", "T": "D"}


@dataclass(frozen=True, slots=True)
class Stored:
    """One message.  ``natural`` is the id that its format gives it, ``unique_id`` the one that clients
    see; ``flags`` are Maildir's letters, in order; ``is_new`` tells that no mail program has met it;
    ``name`` is its file's, without flags, ``""`` in an mbox; ``size`` counts octets where it lies.
    ``pieces`` gives its content with LF line ends, as often as it is called.
    """

    natural: str
    unique_id: str
    arrived: float
    flags: str
    is_new: bool
    name: str
    size: int
    pieces: Callable[[], Iterator[bytes]]


def stored_in(path: str) -> list[Stored]:
    """The messages of one of our mailboxes, in order; none where there is no mailbox.

    Raises:
        OSError: it cannot be read.  A message that vanishes later is ``OSError`` when it is read.
    """
    if path.endswith(MBOX):
        try:
            fd = open_regular(path)
        except FileNotFoundError:
            return []
        os.close(fd)
        return stored_in_mbox(path, read_kept(path))
    return stored_in_maildir(path, read_kept(path))


def stored_in_maildir(maildir: str, kept: Mapping[str, str]) -> list[Stored]:
    """The messages in ``new`` and ``cur``, those that arrived first before the others."""
    found = {}
    for folder, name in names_in(maildir):
        base, _, info = name.partition(":")
        try:
            status = os.lstat(f"{maildir}/{folder}/{name}")
        except FileNotFoundError:
            continue  # a reader renames it; what has its new name is met below, or the next time
        natural = unique_id(base)
        found[base] = Stored(
            natural,
            kept.get(natural, natural),
            _arrival(base, status.st_mtime),
            "".join(sorted(set(info.partition(",")[2]) & set("DFPRST"))) if info else "",
            folder == "new" and not info,
            base,
            status.st_size,
            _File(maildir, name, folder),
        )
    return sorted(found.values(), key=lambda stored: (stored.arrived, stored.name))


def names_in(maildir: str) -> list[tuple[str, str]]:
    """Folder and name of every message's file, as Maildir says; nothing else that lies there."""
    names = []
    for folder in FOLDERS:
        try:
            with os.scandir(f"{maildir}/{folder}") as entries:
                names += [
                    (folder, entry.name)
                    for entry in entries
                    if is_message_name(entry.name) and entry.is_file(follow_symlinks=False)
                ]
        except FileNotFoundError:
            continue
    return names


def arrival_in(maildir: str, folder: str, name: str) -> float:
    """When a message came, by its file's name alone where that tells; infinite for one that has gone."""
    if _SECOND.match(name):
        return _arrival(name, 0.0)
    try:
        return _arrival(name, os.lstat(f"{maildir}/{folder}/{name}").st_mtime)
    except FileNotFoundError:
        return math.inf


def is_message_name(name: str) -> bool:
    """Whether a file of that name can be a message: hidden ones and those with a line end are not."""
    return name[0] != "." and "\n" not in name


def stored_in_mbox(path: str, kept: Mapping[str, str]) -> list[Stored]:
    """The messages of an mbox in any dialect, in its order.

    The caller sees to it that nobody rewrites the file meanwhile; what is appended does not matter.
    """
    fd = open_regular(path)
    try:
        status = os.fstat(fd)
        messages = messages_of(fd, status.st_size)
        stored = []
        for message, natural in zip(messages, unique_ids(messages), strict=True):
            fields = MboxFields(fd, message.region)
            stored.append(
                Stored(
                    natural,
                    kept.get(natural, natural),
                    fields.arrived(status.st_mtime),
                    fields.flags,
                    fields.is_new,
                    "",
                    message.region[1] - message.region[0],
                    _MboxPart(path, message.region, (status.st_dev, status.st_ino)),
                )
            )
        return stored
    finally:
        os.close(fd)


class MboxFields:
    """What mail programs have written into a message's header for themselves."""

    def __init__(self, fd: int, region: tuple[int, int]) -> None:
        start, end = region
        octets = os.pread(fd, min(_HEADER_OCTETS, end - start), start).partition(b"\n\n")[0]
        lines = octets.decode("utf-8", "replace").split("\n")
        self.from_line = lines[0]
        self._fields: dict[str, str] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if colon:
                self._fields.setdefault(name.strip().lower(), value.strip())

    def get(self, name: str) -> str:
        """The first field of that name (lower case), ``""`` without one."""
        return self._fields.get(name, "")

    @property
    def flags(self) -> str:
        letters = {_STATUS[c] for c in self.get("status") if c in _STATUS}
        letters |= {_X_STATUS[c] for c in self.get("x-status") if c in _X_STATUS}
        return "".join(sorted(letters))

    @property
    def is_new(self) -> bool:
        return not self.get("status")

    def arrived(self, otherwise: float) -> float:
        """The time of the From_ line, taken as UTC (RFC 4155, Appendix A)."""
        words = self.from_line.split()
        for at in range(len(words) - 4):
            try:
                # A zone may stand before or after the year.
                year = next(word for word in words[at + 4 :] if len(word) == 4 and word.isdigit())
                parsed = time.strptime(" ".join((*words[at + 1 : at + 4], year)), "%b %d %H:%M:%S %Y")
            except (ValueError, StopIteration):
                continue
            return float(timegm(parsed))
        return float(int(otherwise))


def status_fields(flags: str, is_new: bool) -> bytes:
    """The flags as an mbox has them: ``Status`` and ``X-Status``, nothing for a new message without any."""
    status = ("R" if "S" in flags else "") + ("" if is_new else "O")
    others = "".join(letter for letter, flag in _X_STATUS.items() if flag in flags)
    return (f"Status: {status}\n" if status else "").encode() + (
        f"X-Status: {others}\n" if others else ""
    ).encode()


def _arrival(base: str, modified: float) -> float:
    """The second in a file's name, where it has one; else when its content was written."""
    digits = _SECOND.match(base)
    return float(digits[0]) if digits else float(int(modified))


class _File:
    """A Maildir's file, found again under the name that a reader has given it meanwhile."""

    def __init__(self, maildir: str, name: str, folder: str) -> None:
        self._maildir = maildir
        self._name = name
        self._folder = folder

    def __call__(self) -> Iterator[bytes]:
        return to_lf(self._read(self._open()))

    def _open(self) -> int:
        try:
            return open_regular(f"{self._maildir}/{self._folder}/{self._name}")
        except FileNotFoundError:
            base = self._name.partition(":")[0]
            for folder, name in names_in(self._maildir):
                if name.partition(":")[0] == base:
                    return open_regular(f"{self._maildir}/{folder}/{name}")
            raise

    @staticmethod
    def _read(fd: int) -> Iterator[bytes]:
        try:
            yield from pieces_of(fd)
        finally:
            os.close(fd)


class _MboxPart:
    """A message of an mbox; ``OSError`` when the file is not the one that was listed."""

    def __init__(self, path: str, region: tuple[int, int], file: tuple[int, int]) -> None:
        self._path = path
        self._region = region
        self._file = file

    def __call__(self) -> Iterator[bytes]:
        fd = open_regular(self._path)
        try:
            now = os.fstat(fd)
            if (now.st_dev, now.st_ino) != self._file or now.st_size < self._region[1]:
                raise OSError(f"{os.path.basename(self._path)} was changed by another program meanwhile")
            yield from to_lf(content_of(fd, self._region))
        finally:
            os.close(fd)
