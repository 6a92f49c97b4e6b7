"""The messages of an mbox: what each one holds, how long it is on the wire, and its unique id."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from mailserver.store.mbox_file import Region, is_quoted, regions
from mailserver.store.mboxrd import unquoted
from mailserver.store.octets import CrlfCount, pieces_of
from mailserver.store.status_fields import CHANGING_FIELDS, without_fields

_ID_OCTETS = 20
_HEADER_OCTETS = 64 * 1024


class MboxMessage(NamedTuple):
    """Where it stands, the hash of what does not change of it, and its octets as RETR sends it."""

    region: Region
    digest: str
    octets: int


def messages_of(fd: int, size: int) -> list[MboxMessage]:
    """Every message in the first ``size`` octets, but for what programs keep of the folder in a first one."""
    found = regions(fd, size)
    if found and _is_internal(fd, found[0]):
        del found[0]
    return [measure(fd, region) for region in found]


def _is_internal(fd: int, region: Region) -> bool:
    """Whether it is no message: c-client and Dovecot keep facts of the folder in a first one."""
    header = os.pread(fd, min(_HEADER_OCTETS, region[1] - region[0]), region[0]).partition(b"\n\n")[0]
    return b"\nX-IMAP:" in header and b"FOLDER INTERNAL DATA" in header


def measure(fd: int, region: Region) -> MboxMessage:
    """Read a message for its hash and its size on the wire."""
    digest = hashlib.blake2b(digest_size=_ID_OCTETS)
    start, end = region
    content = _line_end(fd, start, end)
    digest.update(os.pread(fd, content - start, start))
    for piece in without_fields(pieces_of(fd, content, end), CHANGING_FIELDS):
        digest.update(piece)
    count = CrlfCount()
    for piece in content_of(fd, region):
        count.add(piece)
    return MboxMessage(region, digest.hexdigest(), count.total)


def content_of(fd: int, region: Region) -> Iterator[bytes]:
    """What was delivered: without the From_ line and the empty line at the end, quoting undone."""
    start, end = region
    if os.pread(fd, 2, end - 2) == b"\n\n":
        end -= 1
    stored = without_fields(pieces_of(fd, _line_end(fd, start, end), end))
    return unquoted(stored) if is_quoted(fd, region) else stored


def _line_end(fd: int, start: int, end: int) -> int:
    """Where the From_ line of the message has ended."""
    at = start
    for piece in pieces_of(fd, start, end):
        found = piece.find(b"\n")
        if found >= 0:
            return at + found + 1
        at += len(piece)
    return end


def unique_ids(messages: list[MboxMessage]) -> list[str]:
    """One for each: its hash, and for the second and later of equal ones a number after it."""
    met: dict[str, int] = {}
    ids: list[str] = []
    for message in messages:
        count = met[message.digest] = met.get(message.digest, 0) + 1
        ids.append(message.digest if count == 1 else f"{message.digest}-{count}")
    return ids
