"""An mbox as octets: where its messages begin, and how one is written."""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from collections.abc import Iterator
from itertools import chain

from mailserver.interfaces import Delivery
from mailserver.store.mboxrd import quoted
from mailserver.store.octets import to_lf
from mailserver.store.status_fields import without_fields
from mailserver.values.address import Address

Region = tuple[int, int]
"""Where a message begins, and where the next one begins or the file ends, in octets."""

FROM = b"From "
_BOUNDARY = b"\n\n" + FROM
_CONTENT_LENGTH = b"\nContent-Length:"
_HEADER_OCTETS = 64 * 1024  # a Content-Length in a longer header is not looked at
_SCAN_OCTETS = 1024 * 1024


def from_line(reverse_path: Address, arrived: float) -> bytes:
    """The line that begins a message (RFC 4155, Appendix A): the same in every attempt."""
    sender = "".join(c if c.isprintable() and c != " " else "-" for c in str(reverse_path))
    # asctime writes English names in every locale.
    return f"From {sender or 'MAILER-DAEMON'} {time.asctime(time.gmtime(arrived))}\n".encode()


def message_pieces(delivery: Delivery) -> Iterator[bytes]:
    """The message as it stands in the mbox: From_ line, quoted content, an empty line."""
    yield from_line(delivery.reverse_path, delivery.arrived)
    last = b"\n"
    content = to_lf(chain((delivery.header,), delivery.content.chunks()))
    for piece in quoted(without_fields(content)):
        if piece:
            last = piece[-1:]
            yield piece
    yield b"\n" if last == b"\n" else b"\n\n"


def regions(fd: int, size: int) -> list[Region]:
    """The messages in the first ``size`` octets.

    A message begins with ``From `` at the file's start or after an empty line; what stands before
    the first one belongs to none.  A Content-Length (mboxcl, mboxcl2) tells where a message ends only
    if another one begins there, or the file ends.
    """
    starts = [0] if os.pread(fd, len(FROM), 0) == FROM else []
    starts += [at + 2 for at in occurrences(fd, size, _BOUNDARY)]
    fields = list(occurrences(fd, size, _CONTENT_LENGTH)) if starts else []
    if fields:
        starts = _by_content_length(fd, size, starts, fields)
    return list(zip(starts, [*starts, size][1:], strict=True))


def _by_content_length(fd: int, size: int, starts: list[int], fields: list[int]) -> list[int]:
    """The starts without those that lie inside a message whose Content-Length can be believed."""
    kept: list[int] = []
    start = starts[0]
    while start < size:
        kept.append(start)
        following = bisect_right(starts, start)
        end = starts[following] if following < len(starts) else size
        field = bisect_right(fields, start)
        counted = field < len(fields) and fields[field] < end
        start = (_believed_end(fd, size, start, fields[field]) if counted else 0) or end
    return kept


def _believed_end(fd: int, size: int, start: int, field: int) -> int:
    """Where the message with this Content-Length ends; 0 when the field is not to be believed."""
    header = os.pread(fd, _HEADER_OCTETS, start)
    body = start + header.find(b"\n\n") + 2
    number = header[field - start + len(_CONTENT_LENGTH) :].partition(b"\n")[0].strip()
    if body < start + 2 or field >= body or not number.isdigit() or len(number) > 15:
        return 0
    end = body + int(number)
    if end == size or (end == size - 1 and os.pread(fd, 1, end) == b"\n"):
        return size
    around = os.pread(fd, len(FROM) + 2, end - 1)
    if around[1:].startswith(b"\n" + FROM):
        return end + 1
    return end if around.startswith(b"\n" + FROM) else 0


def is_quoted(fd: int, region: Region) -> bool:
    """Whether ``>From `` in a message is a quoted ``From ``.

    mboxcl2 quotes nothing: a message that has a line with a bare ``From `` was written that way, and
    all its lines stand as they were sent.
    """
    start, end = region
    return next(occurrences(fd, end, b"\n" + FROM, start), None) is None


def separator(fd: int, size: int) -> bytes:
    """What must be written first, so that a message appended at ``size`` does begin a message."""
    end = os.pread(fd, 2, max(0, size - 2)) if size else b"\n\n"
    return b"" if end == b"\n\n" else b"\n" if end.endswith(b"\n") else b"\n\n"


def occurrences(fd: int, size: int, wanted: bytes, at: int = 0) -> Iterator[int]:
    """Offsets of ``wanted`` from ``at`` on in the first ``size`` octets, read in pieces."""
    while at < size:
        window = os.pread(fd, min(_SCAN_OCTETS, size - at), at)
        if not window:
            return
        found = window.find(wanted)
        while found >= 0:
            yield at + found
            found = window.find(wanted, found + 1)
        if at + len(window) >= size:
            return
        at += max(1, len(window) - len(wanted) + 1)
