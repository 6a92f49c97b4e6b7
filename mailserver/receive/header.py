"""Reads the header of content as it streams by, and counts the fields that tell of loops."""

from __future__ import annotations

import re
from functools import lru_cache

from mailserver.values.text import printable

_NAME = re.compile(rb"([!-9;-~]+)[ \t]*")
_NAME_OCTETS = 100
"""A longer name is none of those that are remembered."""

_PRIORITY = re.compile(rb"[ \t]*+(-?[0-9])[ \t]*+(?:\([^()\\]*+\)[ \t]*+)?")
_COUNTED = {b"received", b"delivered-to", b"tls-required", b"mt-priority"}

HEADER_OCTETS = 1024 * 1024
"""The longest header; a longer one is an attack on whoever reads it later."""

_DELIVERED_TO_FIELDS = 100

MOST_HOPS = 100
"""Received fields in a message that still passes (RFC 5321 §6.3 asks for at least 100)."""


class HeaderReader:
    """Passes content on; while the header lasts, whole lines at a time.

    ``fields`` counts the fields that matter here, by name in lower case; ``delivered_to`` has the
    values of Delivered-To, in lower case; ``message_id`` is the first Message-ID's;
    ``is_too_long`` tells that the header goes on beyond ``HEADER_OCTETS``.

    ``priority`` is what the first MT-Priority asks for (RFC 6758), 0 for nothing. Those fields are
    left out: the next server would believe us that they are true, and the relay adds its own.
    """

    def __init__(self) -> None:
        self._left_out = False
        self.priority = 0
        self.fields: dict[bytes, int] = {}
        self.delivered_to: list[bytes] = []
        self.message_id = ""
        self.is_too_long = False
        self._tls_required = b""
        self._length = 0
        self._has_fields = False
        self._carry = b""
        self._ended = False

    @property
    def hops(self) -> int:
        """How many servers the message has passed."""
        return self.fields.get(b"received", 0)

    @property
    def says_tls_is_optional(self) -> bool:
        """Whether there is one ``TLS-Required: No`` (RFC 8689 §5)."""
        return self._tls_required == b"no" and self.fields[b"tls-required"] == 1

    def feed(self, chunk: bytes) -> bytes:
        """The octets to keep for ``chunk``; the beginning of an unfinished header line is held back."""
        if self._ended:
            return chunk
        octets = self._carry + chunk if self._carry else chunk
        start = 0
        out: list[tuple[int, int]] = []
        while (end := octets.find(b"\r\n", start)) >= 0:
            if not self._is_header_line(octets, start, end):
                self._ended, self._carry = True, b""
                return _without(octets[:start], out) + self._addition(end > start) + octets[start:]
            if self._left_out:
                out.append((start, end + 2))
            start = end + 2
        self._carry = octets[start:]
        self._length += start
        if self._length > HEADER_OCTETS:
            self.is_too_long = self._ended = True
            self._carry = b""
            return octets
        return _without(octets[:start], out)

    def finish(self) -> bytes:
        """What was held back, at the end of the content."""
        held, self._carry = self._carry, b""
        if self._ended:
            return held
        self._ended = True
        return held + self._addition(False)

    def _is_header_line(self, octets: bytes, start: int, end: int) -> bool:
        if start == end:
            return False
        if octets[start] in b" \t" and self._has_fields:
            return True
        colon = octets.find(b":", start, end)
        name = _field_name(octets[start:colon]) if colon >= 0 else b""
        if not name:
            return False
        self._has_fields = True
        self._left_out = False
        if name == b"message-id":
            if not self.message_id:
                self.message_id = printable(octets[colon + 1 : end].strip().decode(errors="replace"))
        elif name in _COUNTED:
            self.fields[name] = self.fields.get(name, 0) + 1
            if name == b"tls-required":
                self._tls_required = octets[colon + 1 : end].strip().lower()
            elif name == b"mt-priority":
                self._left_out = True
                if found := _PRIORITY.fullmatch(octets, colon + 1, end):
                    self.priority = self.priority or int(found[1])
            elif name == b"delivered-to" and len(self.delivered_to) < _DELIVERED_TO_FIELDS:
                self.delivered_to.append(octets[colon + 1 : end].strip().lower())
        return True

    def _addition(self, body_follows: bool) -> bytes:
        """Text that begins without any header gets the empty line that belongs before it, or its
        first words would read as part of the Received field above."""
        return b"\r\n" if body_follows and not self._has_fields else b""


def _field_name(octets: bytes) -> bytes:
    """What stands before a colon, in lower case, if it is a field's name (RFC 5322 §2.2), else nothing."""
    return _remembered_name(octets) if len(octets) <= _NAME_OCTETS else _name(octets)


def _name(octets: bytes) -> bytes:
    found = _NAME.fullmatch(octets)
    return found[1].lower() if found else b""


_remembered_name = lru_cache(maxsize=512)(_name)


def _without(octets: bytes, out: list[tuple[int, int]]) -> bytes:
    """``octets`` without some pieces, in order."""
    if not out:
        return octets
    begins = [0, *(end for _, end in out)]
    ends = [*(begin for begin, _ in out), len(octets)]
    return b"".join(octets[begin:end] for begin, end in zip(begins, ends, strict=True))
