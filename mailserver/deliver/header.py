"""What final delivery reads and changes in a message's header: Return-Path and Delivered-To."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mailserver.values.content import Content, MemoryContent

HEAD_OCTETS = 256 * 1024
"""How much of a message is searched for the end of its header."""

_END = b"\r\n\r\n"
_RETURN_PATH = b"\nreturn-path:"
_DELIVERED_TO = b"\ndelivered-to:"


@dataclass(frozen=True, slots=True)
class TrimmedContent:
    """``content`` with ``head`` in the place of its first ``replaced`` octets."""

    content: Content
    replaced: int
    head: bytes

    @property
    def size(self) -> int:
        return self.content.size - self.replaced + len(self.head)

    def chunks(self) -> Iterator[bytes]:
        if self.head:
            yield self.head
        skip = self.replaced
        for piece in self.content.chunks():
            if skip < len(piece):
                yield piece[skip:] if skip else piece
            skip = max(0, skip - len(piece))


def head_of(content: Content) -> bytes:
    """The header with its last line end, or the first ``HEAD_OCTETS`` of the message.

    Raises:
        OSError: the content's file cannot be read.
    """
    head = bytearray()  # a hostile client's pieces are small, and many
    for piece in content.chunks():
        searched = max(0, len(head) - 3)
        if not head and (end := piece.find(_END)) >= 0:  # nearly always
            return piece[: end + 2]
        head += piece
        if (end := head.find(_END, searched)) >= 0:
            return bytes(head[: end + 2])
        if len(head) >= HEAD_OCTETS:
            return bytes(head[:HEAD_OCTETS])
    return bytes(head)


def without_return_path(content: Content, head: bytes) -> Content:
    """The content without Return-Path fields: final delivery leaves one, its own (RFC 5321 §4.4)."""
    return _without(content, head, _fields(head, _RETURN_PATH))


def without_fields(content: Content, head: bytes, names: Iterable[str]) -> Content:
    """The content without any field of these names, in lower case."""
    found = [where for name in names for where in _fields(head, f"\n{name}:".encode())]
    return _without(content, head, sorted(found))


def with_other_head(content: Content, replaced: int, head: bytes) -> Content:
    """The content with ``head`` in the place of its first ``replaced`` octets."""
    if isinstance(content, MemoryContent):
        return MemoryContent(head + content.octets[replaced:])
    return TrimmedContent(content, replaced, head)


def _without(content: Content, head: bytes, fields: Iterable[tuple[int, int]]) -> Content:
    kept: list[bytes] = []
    done = 0
    for start, end in fields:
        kept.append(head[done:start])
        done = end
    return with_other_head(content, done, b"".join(kept)) if done else content


def has_delivery_fields(head: bytes) -> bool:
    """Whether there may be fields of a delivery before ours: in most messages there are none."""
    lowered = head.lower()
    return _RETURN_PATH[1:] in lowered or _DELIVERED_TO[1:] in lowered


def delivered_to(head: bytes) -> set[bytes]:
    """The addresses in Delivered-To fields, in lower case: where the message has been before."""
    return {
        head[start + len(_DELIVERED_TO) - 1 : end].strip().lower()
        for start, end in _fields(head, _DELIVERED_TO)
    }


def _fields(head: bytes, name: bytes) -> Iterator[tuple[int, int]]:
    """Where each field of that name begins and ends, with its continuation lines.

    ``name`` is in lower case, with the line end before it and the colon after it.
    """
    lowered = b"\n" + head.lower()
    found = lowered.find(name)
    while found >= 0:
        end = head.find(b"\r\n", found)
        while end >= 0 and head[end + 2 : end + 3] in (b" ", b"\t"):
            end = head.find(b"\r\n", end + 2)
        end = len(head) if end < 0 else end + 2
        yield found, end
        found = lowered.find(name, end)
