"""Appending to a locked mbox: one sync for many messages, and what an earlier attempt has left is mended.

States of an append: nothing; a torn tail (only where the last attempt was never reported as done,
so the spool still owes it and its next attempt takes the tail away); synced messages.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress

from mailserver.durable import Disk, DurableFile
from mailserver.interfaces import Delivery
from mailserver.store.locks import HeldMbox
from mailserver.store.mbox_copies import find_copies
from mailserver.store.mbox_file import Region, message_pieces, separator
from mailserver.store.mbox_rewrite import rewrite_without
from mailserver.store.quota import MailboxQuota

_WRITE_OCTETS = 256 * 1024


Wanted = tuple[Delivery, MailboxQuota | None]
"""A message, and what is asked first whether there is room for it."""


def append_all(
    disk: Disk, held: HeldMbox, wanted: Sequence[Wanted], is_trusted: bool = True
) -> tuple[list[Exception | None], bool]:
    """Put messages at the end of a locked mbox, in order, with one sync.

    What became of each: ``None`` for a message that is on the disk, once; else the disk's or the quota's
    reason, and nothing of the message is left.  And whether no sync has failed: after one that has, what
    an earlier attempt has put there may be in memory alone for good; where the mbox is not ``is_trusted``
    it is written anew.
    """
    errors: list[Exception | None] = [None] * len(wanted)
    names: dict[str, int] = {}
    twins = [
        (index, names[delivery.name])
        for index, (delivery, _) in enumerate(wanted)
        if names.setdefault(delivery.name, index) != index
    ]
    # First of all: what is appended behind a torn message keeps it from being known after the next crash.
    passed = _mended(disk, held, wanted, errors, is_trusted) | {index for index, _ in twins}
    is_synced = _append_and_sync(disk, held, wanted, errors, passed)
    for index, first in twins:
        errors[index] = errors[first]
    return errors, is_synced


def _append_and_sync(
    disk: Disk, held: HeldMbox, wanted: Sequence[Wanted], errors: list[Exception | None], passed: set[int]
) -> bool:
    """Whether no sync has failed."""
    todo = [index for index, error in enumerate(errors) if error is None and index not in passed]
    grown: list[tuple[MailboxQuota, int]] = []
    with disk.extend(held.path) as file:
        begin = held.size
        try:
            if todo:
                _tidy(file, held)
            for index in todo:
                delivery, quota = wanted[index]
                try:
                    octets = _append(file, held, delivery, quota)
                except Exception as error:
                    errors[index] = error
                    continue
                if quota is not None:
                    quota.add(octets, 1, warns=False)  # at once: the next one is admitted by it
                    grown.append((quota, octets))
            if None in errors:
                file.sync()
        except Exception as error:
            with suppress(OSError):
                file.truncate(begin)
            for quota, octets in grown:
                quota.add(-octets, -1, warns=False)
                quota.forget()
            errors[:] = [failed or error for failed in errors]
            return False
    for quota in {quota for quota, _ in grown}:
        quota.warn()
    return True


def _append(file: DurableFile, held: HeldMbox, delivery: Delivery, quota: MailboxQuota | None) -> int:
    """How many octets that were."""
    if quota is not None:
        quota.admit(len(delivery.header) + delivery.content.size)
    size = held.size
    try:
        _write(file, delivery)
    except BaseException:
        with suppress(OSError):
            file.truncate(size)
        raise
    return held.size - size


def _tidy(file: DurableFile, held: HeldMbox) -> None:
    """End what another program, or an attempt that comes again later, has left without an empty line:
    durably, so that after a power cut one sees where that has ended and ours begins."""
    if ending := separator(held.fd, held.size):
        file.write(ending)
        file.sync()


def _mended(
    disk: Disk,
    held: HeldMbox,
    wanted: Sequence[Wanted],
    errors: list[Exception | None],
    is_trusted: bool,
) -> set[int]:
    """Take away what torn attempts have left; indexes of the messages that are there, whole."""
    again = [index for index, (delivery, _) in enumerate(wanted) if delivery.repeated]
    if not again:
        return set()
    found = dict(zip(again, find_copies(held.fd, held.size, [wanted[i][0] for i in again]), strict=True))
    there = {index for index, copies in found.items() if copies.whole and is_trusted}
    inside = _Inside([copies.whole for index, copies in found.items() if copies.whole and index in there])
    left: list[Region] = []
    for index, copies in found.items():
        errors[index] = copies.error
        if copies.whole and not is_trusted:
            copies.torn.append(copies.whole)
        left += (region for region in copies.torn if region not in inside)
    try:
        _remove(disk, held, _merged(sorted(left)))
    except Exception as error:
        for index, copies in found.items():
            if copies.torn:
                errors[index] = error
    return there


class _Inside:
    """Whether a region begins inside one of some others: zeros at the end of a whole message are its own."""

    def __init__(self, wholes: list[Region]) -> None:
        wholes.sort()
        self._starts = [start for start, _ in wholes]
        self._ends = [end for _, end in wholes]

    def __contains__(self, region: Region) -> bool:
        at = bisect_right(self._starts, region[0]) - 1
        return at >= 0 and region[0] < self._ends[at]


def _remove(disk: Disk, held: HeldMbox, torn: list[Region]) -> None:
    if torn and torn[-1][1] == held.size:
        with disk.extend(held.path) as file:
            file.truncate(torn.pop()[0])
            file.sync()
    if torn:
        rewrite_without(disk, held, torn)


def _merged(torn: Sequence[Region]) -> list[Region]:
    """The regions without overlaps: a hole inside a torn message may look like a second one."""
    merged: list[Region] = []
    for start, end in torn:
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _write(file: DurableFile, delivery: Delivery) -> None:
    """Few large writes of bounded memory."""
    pieces: list[bytes] = []
    octets = 0
    for piece in message_pieces(delivery):
        pieces.append(piece)
        octets += len(piece)
        if octets >= _WRITE_OCTETS:
            file.write(b"".join(pieces))
            pieces.clear()
            octets = 0
    file.write(b"".join(pieces))
