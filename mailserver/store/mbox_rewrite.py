"""An mbox without some of its messages, or with more: changed where it lies, by a journal beside it.

The file itself stays: mutt and others open an mbox first and wait for its lock then, so what they
append to a file that has lost its name meanwhile would be lost with it.  The journal (``.rewrite``)
holds what the file is to hold from an offset on.  It is synced before it has its name, and has its
name until the mbox is synced.  States: no journal, the old mbox; a journal, and an mbox that is old,
new or anything between; no journal, the new mbox.  Whoever locks the mbox next (``finish_rewrite``)
makes the second one the third, with whatever another program has appended in between.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from mailserver.durable import Disk, DurableFile
from mailserver.interfaces import MailboxUnavailable
from mailserver.store.locks import HeldMbox
from mailserver.store.mbox_file import Region, from_line, separator
from mailserver.store.octets import open_regular, pieces_of
from mailserver.store.paths import REWRITE
from mailserver.values.address import NULL_SENDER

_MAGIC = b"mailserver mbox journal 1\n"
_HEAD = struct.Struct("<3Q32s")  # see _Journal
_UNFINISHED = ".unfinished"
_END_OCTETS = 64 * 1024


@dataclass(frozen=True, slots=True)
class _Journal:
    """From ``start`` on, a file of ``old`` octets gets the journal's content and then has ``new`` octets;
    ``end`` is the digest of what is cut off first, by which one knows whether it has been."""

    start: int
    old: int
    new: int
    end: bytes


def rewrite_without(disk: Disk, held: HeldMbox, removed: Sequence[Region]) -> None:
    """Leave ``removed`` (in order, no overlaps) out of a locked mbox, durably.

    Raises:
        OSError: the disk's own reason; the mbox is as it was, or becomes the new one when it is next locked.
    """
    if not removed:
        return
    kept = [region for region in _kept(removed, held.size) if region[1] > removed[0][0]]
    _change(disk, held, removed[0][0], lambda: _octets_of(held.fd, kept), sum(e - s for s, e in kept))


def rewrite_with(disk: Disk, held: HeldMbox, more: int) -> None:
    """Put what the descriptor ``more`` holds, messages of an mbox, at the end of a locked mbox: all of
    it or nothing, durably; ``OSError`` as above."""
    size, first = held.size, separator(held.fd, held.size)

    def octets() -> Iterator[bytes]:
        yield first
        yield from pieces_of(more)

    _change(disk, held, size, octets, len(first) + os.fstat(more).st_size)


def rewrite_with_beginning(disk: Disk, held: HeldMbox) -> None:
    """Put a From_ line before a locked mbox that has none, so that its first text becomes a message;
    ``OSError`` as above."""
    size, line = held.size, from_line(NULL_SENDER, os.fstat(held.fd).st_mtime)

    def octets() -> Iterator[bytes]:
        yield line
        yield from pieces_of(held.fd, 0, size)

    _change(disk, held, 0, octets, len(line) + size)


def finish_rewrite(disk: Disk, held: HeldMbox) -> None:
    """End what a crash has interrupted; for a mbox that has just been locked.

    Raises:
        MailboxUnavailable: the journal is damaged, and so may the mbox be.
        OSError: the disk's own reason.
    """
    path = held.path + REWRITE
    if not os.path.lexists(path):
        return
    fd = open_regular(path)
    try:
        journal = _read(fd)
        if journal is None or held.fd < 0:
            disk.remove(path)  # of a version that had no journals, or somebody has removed the mbox
            return
        since = _appended_at(held, journal, fd)
        if since < held.size:
            _prepend(disk, held, journal, fd, since)
            finish_rewrite(disk, held)
            return
        _apply(disk, held, journal, _content(fd))
    finally:
        os.close(fd)


# -- the journal -----------------------------------------------------------------------------------


def _change(
    disk: Disk, held: HeldMbox, start: int, octets: Callable[[], Iterator[bytes]], length: int
) -> None:
    size = held.size
    if not length:
        _cut(disk, held, start)  # a cut needs no journal: it is there or not
        return
    journal = _Journal(start, size, start + length, _end(held.fd, start + length, size))
    _write(disk, held, journal, octets())
    fd = open_regular(held.path + REWRITE)
    try:
        _apply(disk, held, journal, _content(fd))
    finally:
        os.close(fd)


def _write(disk: Disk, held: HeldMbox, journal: _Journal, octets: Iterable[bytes]) -> None:
    """The journal, durably, or nothing."""
    path = held.path + REWRITE
    unfinished = path + _UNFINISHED
    with suppress(FileNotFoundError):
        disk.remove(unfinished)
    digest = hashlib.sha256()
    try:
        with disk.create(unfinished) as file:
            head = _MAGIC + _HEAD.pack(journal.start, journal.old, journal.new, journal.end)
            _put(file, digest, head)
            for piece in octets:
                _put(file, digest, piece)
            file.write(digest.digest())
            file.sync()
        disk.rename(unfinished, path)
        disk.sync_folder(os.path.dirname(path))
    except BaseException:
        for name in (unfinished, path):
            with suppress(OSError):
                disk.remove(name)
        raise


def _put(file: DurableFile, digest: hashlib._Hash, octets: bytes) -> None:
    file.write(octets)
    digest.update(octets)


def _read(fd: int) -> _Journal | None:
    """What the journal says; ``None`` when it is none."""
    size = os.fstat(fd).st_size
    begins = len(_MAGIC) + _HEAD.size
    head = os.pread(fd, begins, 0)
    if not head.startswith(_MAGIC):
        return None
    digest = hashlib.sha256()
    for piece in pieces_of(fd, 0, max(size - digest.digest_size, 0)):
        digest.update(piece)
    if len(head) < begins or os.pread(fd, digest.digest_size, size - digest.digest_size) != digest.digest():
        raise MailboxUnavailable("the mailbox was being rewritten, and the journal of it is damaged")
    return _Journal(*_HEAD.unpack(head[len(_MAGIC) :]))


def _content(fd: int) -> Iterator[bytes]:
    return pieces_of(fd, len(_MAGIC) + _HEAD.size, os.fstat(fd).st_size - hashlib.sha256().digest_size)


def _apply(disk: Disk, held: HeldMbox, journal: _Journal, content: Iterator[bytes]) -> None:
    """Make the mbox what the journal says, and forget the journal."""
    with disk.modify(held.path) as file:
        try:
            if journal.new > held.size:
                file.truncate(journal.new)  # so that whatever others append comes after it
            at = journal.start
            for piece in content:
                file.write_at(piece, at)
                at += len(piece)
        except OSError:
            if journal.start == journal.old:  # nothing of the old mbox was touched
                file.truncate(journal.old)
                file.sync()
                _forget(disk, held)
            raise
        if journal.new < held.size:
            file.truncate(journal.new)
        file.sync()
    _forget(disk, held)


def _forget(disk: Disk, held: HeldMbox) -> None:
    disk.remove(held.path + REWRITE)
    # Before anybody else changes the mbox: an old journal must not come back.
    disk.sync_folder(os.path.dirname(held.path))


def _cut(disk: Disk, held: HeldMbox, size: int) -> None:
    with disk.modify(held.path) as file:
        file.truncate(size)
        file.sync()


# -- after a crash ---------------------------------------------------------------------------------


def _appended_at(held: HeldMbox, journal: _Journal, fd: int) -> int:
    """Where begins what another program has appended since the crash; the file's size if nothing was."""
    size = held.size
    if journal.new < journal.old:
        is_cut = size < journal.old or _end(held.fd, journal.new, journal.old) != journal.end
        return min(size, journal.new if is_cut else journal.old)
    if size >= journal.new and _is_ours(held, journal, fd, journal.new):
        return journal.new
    return size if _is_ours(held, journal, fd, size) else min(size, journal.old)


def _is_ours(held: HeldMbox, journal: _Journal, fd: int, end: int) -> bool:
    """Whether the mbox has, from its old end to ``end``, only zeros and octets of the journal."""
    at = journal.start
    for piece in _content(fd):
        first, last = max(at, journal.old), min(at + len(piece), end)
        if first < last:
            found = os.pread(held.fd, last - first, first)
            wanted = piece[first - at : last - at]
            if found != wanted and any(f not in (w, 0) for f, w in zip(found, wanted, strict=False)):
                return False
        at += len(piece)
    return True


def _prepend(disk: Disk, held: HeldMbox, journal: _Journal, fd: int, since: int) -> None:
    """A new journal in the old one's place, which has what was appended from ``since`` on too."""
    size = held.size
    length = journal.new - journal.start + size - since
    new = _Journal(journal.start, size, journal.start + length, _end(held.fd, journal.start + length, size))

    def octets() -> Iterator[bytes]:
        yield from _content(fd)
        yield from pieces_of(held.fd, since, size)

    _write(disk, held, new, octets())


def _end(fd: int, start: int, end: int) -> bytes:
    digest = hashlib.sha256()
    for piece in pieces_of(fd, start, min(end, start + _END_OCTETS)):
        digest.update(piece)
    return digest.digest()


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
