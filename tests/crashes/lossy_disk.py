"""A disk that notes every change, and builds from its notes each state a power cut could leave.

The model is harder than any real file system: what was not synced may be lost, kept or torn piece
by piece, names apart from octets, and both halves of a rename apart from each other.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import NamedTuple

from mailserver.durable import Disk, DurableFile, StrPath

FOLDER = -1
"""The node of every folder."""


class Name(NamedTuple):
    """A folder's entry changes: ``node`` is ``None`` when it goes."""

    path: str
    node: int | None


class Octets(NamedTuple):
    """Octets written to a file."""

    node: int
    offset: int
    octets: bytes


class Cut(NamedTuple):
    """A file cut to a size."""

    node: int
    size: int


class SyncFile(NamedTuple):
    node: int


class SyncFolder(NamedTuple):
    path: str


class SyncAll(NamedTuple):
    pass


class Acknowledged(NamedTuple):
    """The code under test has said that something is done."""

    what: str


Note = Name | Octets | Cut | SyncFile | SyncFolder | SyncAll | Acknowledged


class LossyDisk(Disk):
    """Works on a true folder, whose present state counts as synced; never syncs in truth."""

    def __init__(self, root: Path, whole_filesystem: bool = True) -> None:
        super().__init__()
        self.notes: list[Note] = []
        self.lock = threading.RLock()
        self._whole = whole_filesystem
        self._nodes: dict[str, int] = {}
        self._sizes: dict[int, int] = {}
        for folder, folders, files in os.walk(root):
            for name in folders:
                self.notes.append(Name(os.path.join(folder, name), FOLDER))
            for name in files:
                path = os.path.join(folder, name)
                node = self._new(path)
                self._put(node, Path(path).read_bytes())
        self.notes.append(SyncAll())

    def acknowledge(self, what: str) -> None:
        with self.lock:
            self.notes.append(Acknowledged(what))

    def make_folder(self, path: StrPath) -> None:
        with self.lock:
            if not os.path.isdir(path):
                parent = os.path.dirname(os.fspath(path))
                self.make_folder(parent)
                os.mkdir(path)
                self.notes.append(Name(os.fspath(path), FOLDER))
                self.sync_folder(parent)

    def create(self, path: StrPath) -> DurableFile:
        with self.lock:
            file = super().create(path)
            return _NotedFile(self, self._new(os.fspath(path)), file.fd)

    def write(self, path: StrPath, pieces: Sequence[bytes]) -> None:
        with self.lock:
            super().write(path, pieces)
            self._put(self._new(os.fspath(path)), b"".join(pieces))

    def extend(self, path: StrPath) -> DurableFile:
        with self.lock:
            return _NotedFile(self, self._nodes[os.fspath(path)], super().extend(path).fd)

    def modify(self, path: StrPath) -> DurableFile:
        with self.lock:
            return _NotedFile(self, self._nodes[os.fspath(path)], super().modify(path).fd)

    def rename(self, old: StrPath, new: StrPath) -> None:
        with self.lock:
            super().rename(old, new)
            node = self._nodes.pop(os.fspath(old))
            self._nodes[os.fspath(new)] = node
            self.notes += [Name(os.fspath(new), node), Name(os.fspath(old), None)]

    def link(self, old: StrPath, new: StrPath) -> None:
        with self.lock:
            super().link(old, new)
            self._nodes[os.fspath(new)] = self._nodes[os.fspath(old)]
            self.notes.append(Name(os.fspath(new), self._nodes[os.fspath(old)]))

    def remove(self, path: StrPath) -> None:
        with self.lock:
            super().remove(path)
            self._nodes.pop(os.fspath(path), None)
            self.notes.append(Name(os.fspath(path), None))

    def sync_file(self, path: StrPath) -> None:
        with self.lock:
            self.notes.append(SyncFile(self._nodes[os.fspath(path)]))

    def sync_folder(self, path: StrPath) -> None:
        with self.lock:
            self.notes.append(SyncFolder(os.fspath(path)))

    def sync_filesystem(self, folder: StrPath) -> bool:
        with self.lock:
            if self._whole:
                self.notes.append(SyncAll())
            return self._whole

    def _new(self, path: str) -> int:
        node = len(self._sizes)
        self._sizes[node] = 0
        self._nodes[path] = node
        self.notes.append(Name(path, node))
        return node

    def _put(self, node: int, octets: bytes) -> None:
        self.notes.append(Octets(node, self._sizes[node], octets))
        self._sizes[node] += len(octets)

    def _put_at(self, node: int, octets: bytes, offset: int) -> None:
        self.notes.append(Octets(node, offset, octets))
        self._sizes[node] = max(self._sizes[node], offset + len(octets))

    def _cut(self, node: int, size: int) -> None:
        self._sizes[node] = size
        self.notes.append(Cut(node, size))


class _NotedFile(DurableFile):
    def __init__(self, disk: LossyDisk, node: int, fd: int) -> None:
        super().__init__(fd)
        self._disk = disk
        self._node = node

    def write(self, *pieces: bytes) -> None:
        with self._disk.lock:
            super().write(*pieces)
            for octets in pieces:
                self._disk._put(self._node, octets)

    def write_at(self, octets: bytes, offset: int) -> None:
        with self._disk.lock:
            super().write_at(octets, offset)
            self._disk._put_at(self._node, octets, offset)

    def truncate(self, size: int) -> None:
        with self._disk.lock:
            super().truncate(size)
            self._disk._cut(self._node, size)

    def sync(self) -> None:
        with self._disk.lock:
            self._disk.notes.append(SyncFile(self._node))


Fate = Callable[[Name | Octets | Cut, bool], "list[Name | Octets | Cut]"]
"""What becomes of one change that was not synced; the flag marks the last one before the cut."""


def all_lost(change: Name | Octets | Cut, last: bool) -> list[Name | Octets | Cut]:
    """The pessimistic disk: only what was synced."""
    return []


def all_kept(change: Name | Octets | Cut, last: bool) -> list[Name | Octets | Cut]:
    """The process died; the disk went on."""
    return [change]


def last_torn(change: Name | Octets | Cut, last: bool) -> list[Name | Octets | Cut]:
    """Everything but the second half of the last write."""
    if last and isinstance(change, Octets):
        return [change._replace(octets=change.octets[: len(change.octets) // 2])]
    return [change]


def names_only(change: Name | Octets | Cut, last: bool) -> list[Name | Octets | Cut]:
    """Names and sizes were written, octets were not: zeros in their place."""
    if isinstance(change, Octets):
        return [change._replace(octets=bytes(len(change.octets)))]
    return [change]


def by_chance(seed: int) -> Fate:
    """Each change on its own: kept, lost, cut short, or zeros, of the whole or of one part."""
    chance = Random(seed)

    def fate(change: Name | Octets | Cut, last: bool) -> list[Name | Octets | Cut]:
        if not isinstance(change, Octets):
            return [change] if chance.random() < 0.6 else []
        at = chance.randrange(len(change.octets) + 1)
        head, tail = change.octets[:at], change.octets[at:]
        octets = chance.choice(
            (change.octets, change.octets, head, bytes(at) + tail, head + bytes(len(tail)), b"")
        )
        return [change._replace(octets=octets)] if octets else []

    return fate


@dataclass
class _State:
    names: dict[str, int] = field(default_factory=dict)
    octets: dict[int, bytearray] = field(default_factory=dict)
    pending: list[Name | Octets | Cut] = field(default_factory=list)

    def apply(self, change: Name | Octets | Cut) -> None:
        if isinstance(change, Name):
            if change.node is None:
                self.names.pop(change.path, None)
            else:
                self.names[change.path] = change.node
            return
        octets = self.octets.setdefault(change.node, bytearray())
        if isinstance(change, Cut):
            octets.extend(bytes(max(0, change.size - len(octets))))
            del octets[change.size :]
        else:
            octets.extend(bytes(max(0, change.offset - len(octets))))
            octets[change.offset : change.offset + len(change.octets)] = change.octets

    def settle(self, covered: Callable[[Name | Octets | Cut], bool]) -> None:
        for change in self.pending:
            if covered(change):
                self.apply(change)
        self.pending = [change for change in self.pending if not covered(change)]


def _is_name_in(folder: str, change: Name | Octets | Cut) -> bool:
    return isinstance(change, Name) and os.path.dirname(change.path) == folder


def _is_octets_of(node: int, change: Name | Octets | Cut) -> bool:
    return isinstance(change, Octets | Cut) and change.node == node


def state_after(notes: Sequence[Note], fate: Fate) -> _State:
    """What the disk holds when the power goes after the last of ``notes``."""
    state = _State()
    for note in notes:
        if isinstance(note, Name | Octets | Cut):
            state.pending.append(note)
        elif isinstance(note, SyncAll):
            state.settle(lambda change: True)
        elif isinstance(note, SyncFolder):
            state.settle(partial(_is_name_in, note.path))
        elif isinstance(note, SyncFile):
            state.settle(partial(_is_octets_of, note.node))
    for index, change in enumerate(state.pending):
        for kept in fate(change, index == len(state.pending) - 1):
            state.apply(kept)
    return state


def build(state: _State, root: Path, copy: Path) -> None:
    """Make ``copy`` hold what ``root`` held in that state."""
    copy.mkdir()
    for path, node in sorted(state.names.items()):
        target = copy / os.path.relpath(path, root)
        if not target.parent.is_dir():
            continue  # the folder itself was lost
        if node == FOLDER:
            target.mkdir(exist_ok=True)
        else:
            target.write_bytes(state.octets.get(node, b""))


def acknowledged(notes: Sequence[Note]) -> set[str]:
    """What had been said to be done."""
    return {note.what for note in notes if isinstance(note, Acknowledged)}
