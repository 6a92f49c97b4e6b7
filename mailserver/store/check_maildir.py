"""What can be wrong with a Maildir that several programs write to."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from mailserver.interfaces import MailboxUnavailable
from mailserver.store import maildir_index, maildirsize
from mailserver.store.adding import Progress
from mailserver.store.findings import Finding, check_kept_ids
from mailserver.store.kept_ids import read_kept, write_kept
from mailserver.store.mailboxes import Mailboxes
from mailserver.store.maildrop import unique_id
from mailserver.store.octets import CrlfCount, open_regular, pieces_of
from mailserver.store.stored import FOLDERS, is_message_name, names_in
from mailserver.store.sweep import TMP_SECONDS, sweep_tmp

_OTHERS = 0o077
_OWNER = 0o600


class MaildirCheck:
    """Looks at one Maildir; read-only until somebody calls a finding's ``mend``."""

    def __init__(self, mailboxes: Mailboxes, progress: Progress) -> None:
        self._mailboxes = mailboxes
        self._disk = mailboxes.disk
        self._path = mailboxes.maildir
        self._name = os.path.basename(self._path)
        self._progress = progress

    def findings(self) -> Iterator[Finding]:
        """Everything; nothing where there is no Maildir."""
        if not os.path.lexists(self._path):
            return
        yield from self._folders()
        if not all(os.path.isdir(f"{self._path}/{folder}") for folder in FOLDERS):
            return
        for folder in FOLDERS:
            yield from self._entries(folder)
        yield from self._doubles()
        yield from self._sizes()
        yield from self._tmp()
        yield from self._quota()
        yield from self._index()
        bases = sorted({name.partition(":")[0] for _, name in names_in(self._path)})
        yield from check_kept_ids(self._disk, self._path, self._name, map(unique_id, bases))

    def _folders(self) -> Iterator[Finding]:
        for folder in (self._path, *(f"{self._path}/{name}" for name in ("tmp", *FOLDERS))):
            where = os.path.relpath(folder, os.path.dirname(self._path))
            try:
                found = os.lstat(folder)
            except FileNotFoundError:
                yield Finding("missing", where, "the folder is missing", self._prepare)
                continue
            if not stat.S_ISDIR(found.st_mode):
                yield Finding("foreign", where, f"expected a folder, found {_kind(found.st_mode)}")
            elif found.st_uid != os.geteuid():
                yield Finding(
                    "permissions", where, f"it belongs to uid {found.st_uid}, not to {os.geteuid()}"
                )
            elif stat.S_IMODE(found.st_mode) & _OTHERS:
                text = f"its mode is {stat.S_IMODE(found.st_mode):04o}, expected 0700"
                yield Finding("permissions", where, text, partial(os.chmod, folder, 0o700))

    def _prepare(self) -> None:
        try:
            self._mailboxes.writer().prepare(self._path)
        except MailboxUnavailable as error:
            raise OSError(str(error)) from error

    def _entries(self, folder: str) -> Iterator[Finding]:
        for entry in list(os.scandir(f"{self._path}/{folder}")):
            where = f"{self._name}/{folder}/{entry.name!r}" if "\n" in entry.name else entry.name
            where = where if "/" in where else f"{self._name}/{folder}/{where}"
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if not stat.S_ISREG(found.st_mode):
                yield Finding("foreign", where, f"{_kind(found.st_mode)} is no message; it is not served")
            elif not is_message_name(entry.name):
                if not entry.name.startswith("."):
                    text = "the file's name holds a line end: it is not served"
                    yield Finding("name", where, text, partial(self._rename_cleanly, folder, entry.name))
            elif stat.S_IMODE(found.st_mode) & _OWNER != _OWNER:
                text = f"its mode is {stat.S_IMODE(found.st_mode):04o}, expected 0600"
                yield Finding("permissions", where, text, partial(os.chmod, entry.path, 0o600))

    def _rename_cleanly(self, folder: str, name: str) -> None:
        """A name of its own, by which it is served from now on."""
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:24]
        new = f"{int(time.time())}.K{digest}.{self._mailboxes.host}"
        self._move(folder, name, folder, new + (":2," if folder == "cur" else ""))

    def _move(self, folder: str, name: str, to: str, new: str) -> None:
        target = f"{self._path}/{to}/{new}"
        if os.path.lexists(target):
            raise FileExistsError(f"{target} is there already")
        self._disk.rename(f"{self._path}/{folder}/{name}", target)
        for changed in {folder, to}:
            self._disk.sync_folder(f"{self._path}/{changed}")

    def _doubles(self) -> Iterator[Finding]:
        places: dict[str, list[tuple[str, str]]] = {}
        for folder, name in names_in(self._path):
            places.setdefault(name.partition(":")[0], []).append((folder, name))
        for base, found in places.items():
            for folder, name in found[:-1]:
                text = "the same file name stands for two files; only one of them is served"
                mend = partial(self._part, folder, name, found[-1])
                yield Finding("twice", f"{self._name}/{folder}/{base}", text, mend)

    def _part(self, folder: str, name: str, other: tuple[str, str]) -> None:
        """Remove the copy if it is one; else give it a name of its own."""
        path = f"{self._path}/{folder}/{name}"
        if _digest(path) == _digest(f"{self._path}/{'/'.join(other)}"):
            self._disk.remove(path)
        else:
            self._rename_cleanly(folder, name)

    def _sizes(self) -> Iterator[Finding]:
        for folder, name in names_in(self._path):
            base, colon, info = name.partition(":")
            path = f"{self._path}/{folder}/{name}"
            try:
                octets, sent = _measured(path)
            except OSError:
                continue  # renamed meanwhile, or told of above
            self._progress(octets)
            right = base
            for letter, size in (("S", octets), ("W", sent)):
                right = _with_size(right, letter, size)
            if right != base:
                text = f"the message has {octets} octets, {sent} on the wire"
                mend = partial(self._correct, folder, name, right + colon + info)
                yield Finding("size", f"{self._name}/{folder}/{name}", text, mend)

    def _correct(self, folder: str, name: str, new: str) -> None:
        """The right name, with the id that clients know."""
        before, after = unique_id(name.partition(":")[0]), unique_id(new.partition(":")[0])
        kept = read_kept(self._path)
        kept[after] = kept.pop(before, before)
        write_kept(self._disk, self._path, kept)
        self._move(folder, name, folder, new)

    def _tmp(self) -> Iterator[Finding]:
        with suppress(OSError):
            limit = time.time() - TMP_SECONDS
            old = [
                entry.name
                for entry in os.scandir(f"{self._path}/tmp")
                if entry.is_file(follow_symlinks=False) and entry.stat().st_mtime < limit
            ]
            if old:
                text = f"{len(old)} files that nobody has written to for 36 hours"
                yield Finding("remains", f"{self._name}/tmp", text, self._sweep)

    def _sweep(self) -> None:
        sweep_tmp(self._path, time.time())

    def _quota(self) -> Iterator[Finding]:
        path = f"{self._path}/{maildirsize.NAME}"
        if not os.path.lexists(path):
            return
        with suppress(OSError):
            with open(open_regular(path), "rb") as file:
                definition = file.readline(1000).decode("ascii", "replace").rstrip("\n")
            said, counted = maildirsize.read(self._path, definition), maildirsize.count(self._path)
            if said == counted:
                return
        text = "it does not tell what the Maildir holds; it is counted anew when it is gone"
        yield Finding("maildirsize", f"{self._name}/{maildirsize.NAME}", text, partial(os.unlink, path))

    def _index(self) -> Iterator[Finding]:
        path = f"{self._path}/{maildir_index.FILE_NAME}"
        if not os.path.lexists(path):
            return
        with suppress(OSError):
            states = maildir_index.states(self._path, FOLDERS)
            found = maildir_index.read(self._path, states)
            names = {name for _, name in names_in(self._path)}
            if found is None or set(found[0]) == names:
                return  # one that is not of these folders' state is not used
        text = "it tells of other messages than there are; without it they are listed anew"
        yield Finding("index", f"{self._name}/{maildir_index.FILE_NAME}", text, partial(os.unlink, path))


def _with_size(base: str, letter: str, size: int) -> str:
    """The name with the right size, if it tells one at all."""
    parts = base.split(",")
    for at, part in enumerate(parts[1:], 1):
        if part.startswith(f"{letter}=") and part[2:].isdecimal() and int(part[2:]) != size:
            parts[at] = f"{letter}={size}"
    return ",".join(parts)


def _measured(path: str) -> tuple[int, int]:
    octets = 0
    sent = CrlfCount()
    fd = open_regular(path)
    try:
        for piece in pieces_of(fd):
            octets += len(piece)
            sent.add(piece)
    finally:
        os.close(fd)
    return octets, sent.total


def _digest(path: str) -> bytes:
    digest = hashlib.sha256()
    fd = open_regular(path)
    try:
        for piece in pieces_of(fd):
            digest.update(piece)
    finally:
        os.close(fd)
    return digest.digest()


def _kind(mode: int) -> str:
    kinds = {stat.S_IFLNK: "a symbolic link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO"}
    return kinds.get(stat.S_IFMT(mode), "a file" if stat.S_ISREG(mode) else "a device or socket")
