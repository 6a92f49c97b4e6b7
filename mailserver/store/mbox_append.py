"""Appending to a locked mbox: one sync for many messages, and what an earlier attempt has left is mended.

States of an append: nothing; a torn tail (only where the last attempt was never reported as done,
so the spool still owes it and its next attempt takes the tail away); synced messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from mailserver.durable import Disk, DurableFile
from mailserver.interfaces import Delivery
from mailserver.store.locks import HeldMbox
from mailserver.store.mbox_copies import Copies
from mailserver.store.mbox_file import Region, message_pieces, separator
from mailserver.store.mbox_rewrite import rewrite_without
from mailserver.store.quota import MailboxQuota

_WRITE_OCTETS = 256 * 1024


Wanted = tuple[Delivery, MailboxQuota | None]
"""A message, and what is asked first whether there is room for it."""


def append_all(disk: Disk, held: HeldMbox, wanted: Sequence[Wanted]) -> list[Exception | None]:
    """Put messages at the end of a locked mbox, in order, with one sync.

    What became of each: ``None`` for a message that is on the disk, once; else the disk's or the quota's
    reason, and nothing of the message is left.
    """
    errors: list[Exception | None] = [None] * len(wanted)
    there = set()
    mending = _Mending(disk, held)
    # First of all: what is appended behind a torn message keeps it from being known after the next crash.
    for index, (delivery, _) in enumerate(wanted):
        try:
            if delivery.repeated and mending.is_there(delivery):
                there.add(index)
        except Exception as error:
            errors[index] = error
    size = held.size
    with disk.extend(held.path) as file:
        for index, (delivery, quota) in enumerate(wanted):
            if errors[index] is None and index not in there:
                try:
                    _append(file, held, delivery, quota)
                except Exception as error:
                    errors[index] = error
        try:
            if None in errors:
                file.sync()
        except Exception as error:
            with suppress(OSError):
                file.truncate(size)
            for _, quota in wanted:
                if quota is not None:
                    quota.forget()
            return [failed or error for failed in errors]
    return errors


def _append(file: DurableFile, held: HeldMbox, delivery: Delivery, quota: MailboxQuota | None) -> None:
    if quota is not None:
        quota.admit(len(delivery.header) + delivery.content.size)
    size = held.size
    try:
        _write(file, separator(held.fd, size), delivery)
    except BaseException:
        with suppress(OSError):
            file.truncate(size)
        raise
    if quota is not None:
        quota.add(held.size - size, 1)


class _Mending:
    """Takes away what torn attempts have left in a locked mbox, which is looked through once."""

    def __init__(self, disk: Disk, held: HeldMbox) -> None:
        self._disk = disk
        self._held = held
        self._copies: Copies | None = None

    def is_there(self, delivery: Delivery) -> bool:
        """Whether the whole message is there; nothing torn is, afterwards."""
        if self._copies is None:
            self._copies = Copies(self._held.fd, self._held.size)
        whole, torn = self._copies.of(delivery)
        if torn:
            self._copies = None
            self._remove(torn)
        return whole is not None

    def _remove(self, torn: list[Region]) -> None:
        if torn[-1][1] == self._held.size:
            with self._disk.extend(self._held.path) as file:
                file.truncate(torn.pop()[0])
                file.sync()
        if torn:
            rewrite_without(self._disk, self._held, _merged(torn))


def _merged(torn: Sequence[Region]) -> list[Region]:
    """The regions without overlaps: a hole inside a torn message may look like a second one."""
    merged: list[Region] = []
    for start, end in torn:
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _write(file: DurableFile, separated: bytes, delivery: Delivery) -> None:
    """Few large writes of bounded memory."""
    pieces = [separated]
    octets = 0
    for piece in message_pieces(delivery):
        pieces.append(piece)
        octets += len(piece)
        if octets >= _WRITE_OCTETS:
            file.write(b"".join(pieces))
            pieces.clear()
            octets = 0
    file.write(b"".join(pieces))
