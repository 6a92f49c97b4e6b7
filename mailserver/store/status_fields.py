"""Fields that mail programs keep in an mbox for themselves: no part of the message."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

# https://doc.dovecot.org/2.3/admin_manual/mailbox_formats/mbox/ advises deliveries to remove them.
STATUS_FIELDS = frozenset(
    (b"status", b"x-status", b"x-keywords", b"x-uid", b"x-imap", b"x-imapbase", b"content-length")
)
CHANGING_FIELDS = STATUS_FIELDS | {b"lines"}
"""What a program may write into a message that is there already (mutt adds Lines)."""

_NAME_OCTETS = 32  # the longest name with its colon, and room for blanks


def without_fields(pieces: Iterable[bytes], names: frozenset[bytes] = STATUS_FIELDS) -> Iterator[bytes]:
    """A message with LF line ends, without the header fields of these names (lower case).

    Memory is bounded: of a line only its beginning is held back.
    """
    source = iter(pieces)
    held = b""
    leaving = False
    at_start = True
    for piece in source:
        octets = held + piece
        kept, held, at_start, leaving, ended = _header_lines(octets, names, at_start, leaving)
        if kept:
            yield kept
        if ended:
            if held:
                yield held
            yield from source
            return
    if held:
        kept, held, _, leaving, _ = _header_lines(held + b"\n", names, at_start, leaving)
        if kept:
            yield kept[:-1]


def _header_lines(
    octets: bytes, names: frozenset[bytes], at_start: bool, leaving: bool
) -> tuple[bytes, bytes, bool, bool, bool]:
    """What is kept of ``octets``; what is undecided, or the body once it ``ended``; the state after."""
    kept: list[bytes] = []
    at = 0
    while at < len(octets):
        end = octets.find(b"\n", at) + 1
        if at_start:
            if not end and len(octets) - at < _NAME_OCTETS:
                return b"".join(kept), octets[at:], True, leaving, False
            first = octets[at : at + 1]
            if first == b"\n":
                return b"".join(kept) + b"\n", octets[at + 1 :], True, False, True
            if first not in (b" ", b"\t"):
                name, colon, _ = octets[at : at + _NAME_OCTETS].partition(b":")
                leaving = bool(colon) and name.rstrip().lower() in names
        if not leaving:
            kept.append(octets[at : end or len(octets)])
        at = end or len(octets)
        at_start = bool(end)
    return b"".join(kept), b"", at_start, leaving, False
