"""Many messages at once into a mailbox, with the unique ids that clients know them by.

A message that comes this way is no delivery: it has been in a mailbox before.  States of an
addition to a Maildir: files in ``tmp``, which nobody sees; then the kept ids, which tell of no message
yet; then the messages under their names, one after the other.  To an mbox: a file beside it, which
nobody sees; the kept ids; all messages at once.  So a crash leaves a mailbox that lacks some of the
messages, each with its right id, and whoever does the same again adds the others.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Protocol

from mailserver.durable import Disk
from mailserver.store.kept_ids import read_kept, write_kept
from mailserver.store.locks import HeldMbox, MboxLocks
from mailserver.store.maildir_files import MaildirWriter
from mailserver.store.maildirsize import NAME as MAILDIRSIZE
from mailserver.store.maildrop import unique_id
from mailserver.store.mbox_file import from_line
from mailserver.store.mbox_messages import messages_of, unique_ids
from mailserver.store.mbox_rewrite import rewrite_with
from mailserver.store.mboxrd import quoted
from mailserver.store.octets import CrlfCount, open_regular
from mailserver.store.paths import CONVERTING
from mailserver.store.status_fields import without_fields
from mailserver.store.stored import FOLDERS, Stored, names_in, status_fields
from mailserver.values.address import NULL_SENDER, Address, address_from

Progress = Callable[[int], None]
"""Called with the octets of each message that is done."""

_PLAIN_STEM = re.compile(r"[0-9A-Za-z][!-+\-.0-9;-~]{0,149}")  # no comma, slash or colon
_SIZES = re.compile(r",[SW]=[0-9]*")
_RETURN_PATH = re.compile(rb"^Return-Path:[ \t]*<([^<>\r\n]{0,320})>", re.IGNORECASE | re.MULTILINE)
_LONGEST_HEADER = 256 * 1024
_WRITE_OCTETS = 256 * 1024


class Addition(Protocol):
    """A way to add messages to one mailbox, durably when it returns."""

    def __call__(self, incoming: Sequence[Stored], progress: Progress) -> None: ...


class MaildirAddition:
    """Adds to the Maildir at ``path``, or to a folder in it with ``folder`` (``.Sent``)."""

    def __init__(self, disk: Disk, writer: MaildirWriter, host: str, path: str, folder: str = "") -> None:
        self._disk = disk
        self._writer = writer
        self._host = host
        self._mailbox = path
        self._path = f"{path}/{folder}" if folder else path

    def __call__(self, incoming: Sequence[Stored], progress: Progress) -> None:
        """Raises ``MailboxUnavailable`` or ``OSError``; then some, or none, have come."""
        self._writer.prepare(self._mailbox)
        self._writer.prepare(self._path)
        taken = {_stem(name.partition(":")[0]) for _, name in names_in(self._path)}
        waiting = []
        for number, stored in enumerate(incoming):
            stem = self._free_stem(stored, number, taken)
            taken.add(stem)
            waiting.append((stem, self._written(stem, stored), stored))
            progress(stored.size)
        self._keep_ids(waiting)
        for stem, base, stored in waiting:
            place = f"new/{base}" if stored.is_new and not stored.flags else f"cur/{base}:2,{stored.flags}"
            self._disk.rename(f"{self._path}/tmp/{stem}", f"{self._path}/{place}")
        if self._writer.sync_each or not self._disk.sync_filesystem(self._path):
            for folder in FOLDERS:
                self._disk.sync_folder(f"{self._path}/{folder}")
        with suppress(FileNotFoundError):
            os.unlink(f"{self._mailbox}/{MAILDIRSIZE}")  # to be counted anew

    def _free_stem(self, stored: Stored, number: int, taken: set[str]) -> str:
        """The file's own name where it has a good one that is free; else one made of the unique id."""
        stem = _stem(stored.name)
        if _PLAIN_STEM.fullmatch(stem) and stem not in taken:
            return stem
        digest = hashlib.sha256(stored.unique_id.encode("ascii", "replace")).hexdigest()[:24]
        return f"{int(stored.arrived)}.M{number % 1_000_000:06d}K{digest}.{self._host}"

    def _written(self, stem: str, stored: Stored) -> str:
        """The whole message in ``tmp``; its base name, with its sizes."""
        temporary = f"{self._path}/tmp/{stem}"
        with suppress(FileNotFoundError):
            self._disk.remove(temporary)  # a crash has left it
        octets = 0
        sent = CrlfCount()
        try:
            with self._disk.create(temporary) as file:
                for chunk in _in_chunks(stored.pieces()):
                    file.write(chunk)
                    octets += len(chunk)
                    sent.add(chunk)
                os.utime(file.fd, (stored.arrived, stored.arrived))
                if self._writer.sync_each:
                    file.sync()
        except BaseException:
            with suppress(OSError):
                self._disk.remove(temporary)
            raise
        return f"{stem},S={octets},W={sent.total}"

    def _keep_ids(self, waiting: Iterable[tuple[str, str, Stored]]) -> None:
        if self._path != self._mailbox:
            return  # POP3 does not serve folders
        kept = read_kept(self._path)
        before = dict(kept)
        for _, base, stored in waiting:
            if (natural := unique_id(base)) != stored.unique_id:
                kept[natural] = stored.unique_id
        if kept != before:
            write_kept(self._disk, self._path, kept)


class MboxAddition:
    """Adds to the end of the mbox at ``path``."""

    def __init__(self, disk: Disk, locks: MboxLocks, path: str) -> None:
        self._disk = disk
        self._locks = locks
        self._path = path

    def __call__(self, incoming: Sequence[Stored], progress: Progress) -> None:
        """Raises ``MailboxUnavailable`` or ``OSError``; then none has come."""
        beside = f"{self._path}.{os.getpid()}{CONVERTING}"
        with suppress(FileNotFoundError):
            self._disk.remove(beside)
        try:
            with self._disk.create(beside) as file:
                for stored in incoming:
                    for chunk in _in_chunks(mbox_form(stored)):
                        file.write(chunk)
                    progress(stored.size)
            fd = open_regular(beside)
            try:
                with self._locks.hold(self._path) as held:
                    self._append(held, fd, incoming)
            finally:
                os.close(fd)
        finally:
            with suppress(OSError):
                self._disk.remove(beside)

    def _append(self, held: HeldMbox, fd: int, incoming: Sequence[Stored]) -> None:
        if held.fd < 0:
            self._disk.create(held.path).close()
            held.adopt(held.path)
        there = messages_of(held.fd, held.size)
        coming = messages_of(fd, os.fstat(fd).st_size)
        if len(coming) != len(incoming):
            raise OSError("the messages cannot be told apart in an mbox")
        kept = read_kept(held.path)
        before = dict(kept)
        for natural, stored in zip(unique_ids([*there, *coming])[len(there) :], incoming, strict=True):
            if natural != stored.unique_id:
                kept[natural] = stored.unique_id
        if kept != before:
            write_kept(self._disk, held.path, kept)
        rewrite_with(self._disk, held, fd)


def mbox_form(stored: Stored, fields: bytes = b"") -> Iterator[bytes]:
    """The message as an mbox has it, with its flags and further ``fields`` at the end of its header."""
    yield from_line(reverse_path_of(stored), stored.arrived)
    last = b"\n"
    kept = status_fields(stored.flags, stored.is_new) + fields
    for piece in quoted(_with_fields(without_fields(stored.pieces()), kept)):
        if piece:
            last = piece[-1:]
            yield piece
    yield b"\n" if last == b"\n" else b"\n\n"


def reverse_path_of(stored: Stored) -> Address:
    """Whom the message's Return-Path names; nobody where it has none."""
    found = _RETURN_PATH.search(next(stored.pieces(), b"").partition(b"\n\n")[0])
    try:
        return address_from(found[1].decode()) if found else NULL_SENDER
    except ValueError:
        return NULL_SENDER


def _stem(base: str) -> str:
    return _SIZES.sub("", base)


def _with_fields(pieces: Iterator[bytes], fields: bytes) -> Iterator[bytes]:
    """``fields`` at the end of the header; left out where no header ends."""
    held = b""
    for piece in pieces if fields else ():
        held += piece
        at = 0 if held.startswith(b"\n") else held.find(b"\n\n") + 1
        if at or held.startswith(b"\n"):
            yield held[:at] + fields + held[at:]
            held = b""
            break
        if len(held) > _LONGEST_HEADER:
            break
    if held:
        yield held
    yield from pieces


def _in_chunks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Few large writes of bounded memory."""
    chunks: list[bytes] = []
    octets = 0
    for piece in pieces:
        chunks.append(piece)
        octets += len(piece)
        if octets >= _WRITE_OCTETS:
            yield b"".join(chunks)
            chunks.clear()
            octets = 0
    if chunks:
        yield b"".join(chunks)
