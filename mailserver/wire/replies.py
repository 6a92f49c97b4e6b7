"""SMTP replies as a client reads them: bounded, lenient in spelling, strict in shape (RFC 5321 §4.2)."""

from __future__ import annotations

import re
from functools import lru_cache

from mailserver.values.reply import Reply

LINE_OCTETS = 4096
"""Longest reply line; RFC 5321 §4.5.3.1.5 asks for 512, and some hosts exceed it."""
REPLY_LINES = 256
"""Most lines of one reply; an EHLO reply of 60 is the longest seen in the wild."""
REPLY_OCTETS = 32 * 1024
"""Most octets of one reply."""

_REPEATED, _REPEATED_OCTETS = 256, 128
"""How many replies of one line are remembered, and how long they may be."""

_ENHANCED = re.compile(r"([245])\.\d{1,3}\.\d{1,3}(?= |$)")


class MalformedReply(Exception):
    """What came is no SMTP reply, or too much of one; the text says which. The session is over."""


class ReplyReader:
    """Cuts a server's octets into replies, holding at most one unfinished reply in memory."""

    __slots__ = ("_buffer", "_lines", "_octets", "_read")

    def __init__(self) -> None:
        self._buffer = b""
        self._read = 0
        self._lines: list[str] = []
        self._octets = 0

    @property
    def has_rest(self) -> bool:
        """Whether octets or lines of a further reply have already come."""
        return bool(self._lines) or self._read < len(self._buffer)

    def clear(self) -> None:
        """Forget what was held."""
        self._buffer, self._read, self._octets, self._lines = b"", 0, 0, []

    def add(self, data: bytes) -> None:
        """Take in octets; ``next`` gives the replies in them."""
        # What has been read is cut off here and not line by line: a segment of tiny lines stays linear.
        rest = self._buffer[self._read :]
        self._buffer, self._read = rest + data if rest else data, 0

    def next(self) -> Reply | None:
        """The next whole reply, or ``None`` when more octets are needed.

        Raises:
            MalformedReply: this is no reply; use the reader no more.
        """
        while (end := self._buffer.find(b"\n", self._read)) >= 0:
            line = self._buffer[self._read : end + 1]
            self._read = end + 1
            if not self._lines and line[3:4] == b" " and len(line) <= _REPEATED_OCTETS:
                return _of_one_line(line)
            if reply := self._line(line):
                return reply
        if len(self._buffer) - self._read > LINE_OCTETS:
            raise MalformedReply("a reply line is too long")
        return None

    def _line(self, line: bytes) -> Reply | None:
        self._octets += len(line)
        if len(line) > LINE_OCTETS:
            raise MalformedReply("a reply line is too long")
        if self._octets > REPLY_OCTETS or len(self._lines) >= REPLY_LINES:
            raise MalformedReply("a reply is too long")
        code, text = _cut(line)
        self._lines.append(text)
        if line[3:4] == b"-":
            return None
        lines, self._lines, self._octets = self._lines, [], 0
        # The last line's code counts; RFC 5321 §4.2.1 asks that all be equal.
        return _reply(code, lines)


def _cut(line: bytes) -> tuple[int, str]:
    """The code and the text of one line."""
    # A bare LF also ends a line here: what a server says to us goes no further than a log.
    line = line.rstrip(b"\r\n")
    code = line[:3]
    if len(code) < 3 or not code.isdigit() or not b"200" <= code <= b"599":
        raise MalformedReply("a reply does not begin with a code")
    if line[3:4] not in (b"", b" ", b"-"):
        raise MalformedReply("a reply's code is not followed by a space")
    return int(code), _printable(line[4:])


@lru_cache(maxsize=_REPEATED)
def _of_one_line(line: bytes) -> Reply:
    """Servers say the same to every MAIL, RCPT and DATA: what was read once need not be read again."""
    code, text = _cut(line)
    return _reply(code, [text])


def _printable(text: bytes) -> str:
    decoded = text.decode("utf-8", "replace")
    if decoded.isprintable():
        return decoded
    return "".join([c if c.isprintable() else " " if c == "\t" else "?" for c in decoded])


def _reply(code: int, lines: list[str]) -> Reply:
    """Takes the enhanced status off the lines where it stands and fits the code (RFC 2034 §4)."""
    found = _ENHANCED.match(lines[0])
    if not found or found[1] != str(code)[0]:
        return Reply(code, "", tuple(lines))
    enhanced = found[0]
    if len(lines) == 1:
        return Reply(code, enhanced, (lines[0][len(enhanced) + 1 :],))
    return Reply(code, enhanced, tuple([line.removeprefix(enhanced).lstrip(" ") for line in lines]))
