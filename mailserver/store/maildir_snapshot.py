"""A Maildir's messages as columns, from its folders or from the index of the last time, in parts."""

from __future__ import annotations

import os
import re
from array import array
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from threading import Lock

from mailserver.durable import Disk
from mailserver.store import maildir_index
from mailserver.store.maildir_index import FolderState
from mailserver.store.maildrop import are_unique_ids, unique_id
from mailserver.store.octets import READ_OCTETS, CrlfCount, open_regular
from mailserver.store.order import in_order, in_parts, taken_in_parts

FOLDERS = ("new", "cur")
"""``new`` is scanned first, so that a message on its way to ``cur`` is met at least once."""

_SENT = re.compile(r",W=([0-9]{1,15})(?=,|$)")
_SECOND = re.compile(r"[0-9]{1,15}")
_TEN_DIGITS = re.compile(r"(?:[0-9]{10}\.[^\n]*\n)*")
_SCANS = 3

MOST_REMEMBERED = 20_000
"""Messages of small Maildirs whose listing stays in memory, some 150 octets each."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Messages in the order of arrival: names of files, octets on the wire, ids that the names give."""

    names: Sequence[str]
    octets: Sequence[int]
    unique_ids: Sequence[str]


class Snapshots:
    """The last listings of small Maildirs: most clients come again and find nothing new.

    Safe in several threads; bounded by the messages that are listed in all.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[list[FolderState], Snapshot]] = OrderedDict()
        self._messages = 0
        self._lock = Lock()

    def get(self, mailbox: str, states: list[FolderState]) -> Snapshot | None:
        """The listing of a Maildir whose folders are as they were then."""
        with self._lock:
            kept = self._kept.get(mailbox)
            if kept is None or kept[0] != states:
                return None
            self._kept.move_to_end(mailbox)
            return kept[1]

    def put(self, mailbox: str, states: list[FolderState], taken: Snapshot) -> None:
        """Remember a listing; those that nobody has asked for longest go first."""
        with self._lock:
            old = self._kept.pop(mailbox, None)
            self._messages -= len(old[1].names) if old else 0
            if len(taken.names) > maildir_index.FEWEST:
                return
            self._kept[mailbox] = states, taken
            self._messages += len(taken.names)
            while self._messages > MOST_REMEMBERED or len(self._kept) > MOST_REMEMBERED:
                _, (_, forgotten) = self._kept.popitem(last=False)
                self._messages -= len(forgotten.names)


def snapshot(disk: Disk, mailbox: str, sizes: dict[str, int], remembered: Snapshots) -> Snapshot:
    """Every message of a Maildir; ``sizes`` remembers what was counted for names without ``,W=``.

    Raises:
        OSError: a folder cannot be read.
    """
    states = maildir_index.states(mailbox, FOLDERS)
    if taken := remembered.get(mailbox, states):
        return taken
    if found := maildir_index.read(mailbox, states):
        return Snapshot(*found)
    names, states = _scan(mailbox, states)
    taken, is_whole = _measured(mailbox, names, sizes)
    if is_whole and maildir_index.are_settled(mailbox, states):
        remembered.put(mailbox, states, taken)
        maildir_index.write(disk, mailbox, states, taken.names, taken.octets, taken.unique_ids)
    return taken


def path_of(mailbox: str, name: str) -> str:
    """Where a file most likely is: the names of what has been seen have flags, and lie in ``cur``."""
    return f"{mailbox}/{'cur' if ':' in name else 'new'}/{name}"


def paths_of(mailbox: str, name: str) -> Iterator[str]:
    """Where a file may be by that name."""
    folders = reversed(FOLDERS) if ":" in name else FOLDERS
    return (f"{mailbox}/{folder}/{name}" for folder in folders)


def base_of(name: str) -> str:
    """A file's name without its flags, by which it is found again when they change."""
    return name.partition(":")[0]


def _scan(mailbox: str, before: list[FolderState]) -> tuple[dict[str, str], list[FolderState]]:
    """Names by their bases; scanned again while readers rename files, which could hide one from a scan."""
    for _ in range(_SCANS):
        found: dict[str, str] = {}
        for folder in FOLDERS:
            for part in in_parts(_files(f"{mailbox}/{folder}")):
                found.update(zip(_bases(part), part, strict=True))
        after = maildir_index.states(mailbox, FOLDERS)
        if before == after:
            break
        before = after
    return found, before


def _files(folder: str) -> list[str]:
    names: list[str] = []
    with os.scandir(folder) as entries:
        for part in taken_in_parts(entries):
            # A name with a line end is nobody's message; only regular files are opened.
            names += [
                entry.name
                for entry in part
                if entry.is_file(follow_symlinks=False) and entry.name[0] != "." and "\n" not in entry.name
            ]
    return names


def _bases(names: Sequence[str]) -> list[str]:
    return [name.partition(":")[0] for name in names]


def _measured(mailbox: str, found: dict[str, str], sizes: dict[str, int]) -> tuple[Snapshot, bool]:
    """The columns, and whether they tell of every file: one that cannot be counted is left out."""
    names: list[str] = []
    octets = array("Q")
    ids: list[str] = []
    for part in in_parts(_in_order_of_arrival(list(found))):
        files = [found[base] for base in part]
        counted = [_listed(base) for base in part]
        if None in counted:
            counted = [
                _counted(mailbox, file, base, sizes) if size is None else size
                for file, base, size in zip(files, part, counted, strict=True)
            ]
            known = [n for n, size in enumerate(counted) if size is not None]
            part, files = [part[n] for n in known], [files[n] for n in known]
        names += files
        octets.extend(size for size in counted if size is not None)
        ids += part if are_unique_ids(part) else map(unique_id, part)
    return Snapshot(names, octets, ids), len(names) == len(found)


def _in_order_of_arrival(bases: list[str]) -> Sequence[str]:
    """By the second that a name begins with, then by the whole name."""
    if all(_TEN_DIGITS.fullmatch("\n".join(part) + "\n") for part in in_parts(bases)):
        return in_order(bases)
    return [base for _, base in in_order([(_second(base), base) for base in bases])]


def _second(base: str) -> int:
    digits = _SECOND.match(base)
    return int(digits[0]) if digits else 0


def _listed(base: str) -> int | None:
    """What the name says of the message's size on the wire."""
    _, sign, digits = base.rpartition(",W=")
    if sign and digits.isascii() and digits.isdigit() and len(digits) <= 15:
        return int(digits)
    said = _SENT.search(base)
    return int(said[1]) if said else None


def _counted(mailbox: str, name: str, base: str, sizes: dict[str, int]) -> int | None:
    """The size, counted now or before; ``None`` when the file cannot be read."""
    octets = sizes.get(base)
    if octets is None:
        count = CrlfCount()
        try:
            for piece in pieces(_opened(mailbox, name)):
                count.add(piece)
        except OSError:
            return None
        octets = sizes[base] = count.total
    return octets


def _opened(mailbox: str, name: str) -> int:
    likely, other = paths_of(mailbox, name)
    try:
        return open_regular(likely)
    except FileNotFoundError:
        return open_regular(other)


def pieces(fd: int) -> Iterator[bytes]:
    """The octets of the open file, which is closed with the iterator, started or not."""
    return _read(open(fd, "rb", buffering=0))


def _read(file: FileIO) -> Iterator[bytes]:
    with file:
        while piece := file.read(READ_OCTETS):
            yield piece
