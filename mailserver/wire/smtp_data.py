"""The content of DATA, in chunks: finds its true end, undoes dot-stuffing, notices broken rules."""

from __future__ import annotations

from mailserver.values.line_ends import lf_text
from mailserver.values.reply import Reply, reply

TEXT_LINE_OCTETS = 1000
"""The longest line of text with its CRLF, without a stuffed dot (RFC 5321 §4.5.3.1.6)."""

TOO_LARGE = reply(552, "5.3.4", "Message exceeds the size limit")
BARE_LINE_END = reply(550, "5.5.2", "Bare CR or LF is not allowed; lines end in CR LF")
NUL_OCTET = reply(550, "5.6.0", "NUL is not allowed in a message")
LONG_LINE = reply(550, "5.6.0", "A line of the message is longer than the limit of 998 octets")

_END = b"\r\n.\r\n"
_TAILS = (b"\r\n.\r", b"\r\n.", b"\r\n", b"\r")
_DOT_BEGUN = (b"", b".", b".\r")


class ContentScanner:
    """One message's content, fed in pieces of any size.

    Only CRLF "." CRLF ends it (RFC 5321 §4.1.1.4); the line end before the first line is the one
    that DATA itself ended in.  A bare CR or LF, a NUL or a line too long is a fault told after
    the true end, so that nobody can put commands where we see text, or the reverse.  Costs a few
    passes of C code over each piece and at most four octets of memory between pieces.

    With ``normalize`` bare line ends are mended and not told: a bare LF becomes CRLF, a bare CR a
    space; still only CRLF "." CRLF ends the message, and a lone dot beside a bare LF, which another
    server might take for the end, is dropped (Postfix's smtpd_forbid_bare_newline = normalize).

    ``ended`` becomes true at the end; then ``rest`` is what followed it and ``fault`` the reply
    for a broken rule, or ``None``.
    """

    __slots__ = (
        "_bare",
        "_carry",
        "_first",
        "_limit",
        "_line",
        "_line_limit",
        "_long",
        "_normalize",
        "_nul",
        "_size",
        "ended",
        "rest",
    )

    def __init__(self, size_limit: int, line_limit: int = TEXT_LINE_OCTETS, normalize: bool = False) -> None:
        self.ended = False
        self.rest = b""
        self._limit = size_limit
        self._line_limit = line_limit
        self._normalize = normalize
        # Starting behind an imagined CRLF makes the first line like any other.
        self._carry = b"\r\n"
        self._first = True
        self._size = 0
        self._line = 0
        self._bare = self._nul = self._long = False

    @property
    def fault(self) -> Reply | None:
        """The first in this order, not in time: so it does not depend on how the octets were cut."""
        if self._size > self._limit:
            return TOO_LARGE
        if self._bare:
            return BARE_LINE_END
        if self._nul:
            return NUL_OCTET
        return LONG_LINE if self._long else None

    def scan(self, octets: bytes) -> bytes:
        """Take the next octets; the content to hand on, which may be empty.

        Once a rule is broken nothing more is handed on.  Must not be called after the end.
        """
        piece, stuffed = self._cut(self._carry + octets)
        if self._size > self._limit or not piece:
            return b""
        # No CRLF is ever cut in two, so each piece can be looked at by itself.
        if lf_text(piece) is None:
            if self._normalize:
                piece, stuffed = _mended(piece), True
            else:
                self._bare = True
        if b"\0" in piece:
            self._nul = True
        content = piece.replace(b"\r\n.", b"\r\n") if stuffed else piece
        if self._first:
            self._first = False
            content = content[2:]
        self._size += len(content)
        self._measure(content)
        return b"" if self.fault else content

    def _cut(self, data: bytes) -> tuple[bytes, bool]:
        """What of ``data`` is surely content, and whether a line of it may begin with a dot.

        A CRLF at the end waits for what follows it.
        """
        # What has no dot at all, a large attachment for example, needs one pass at memory's speed.
        dot = data.find(b"\r\n.") if b"." in data else -1
        end = data.find(_END, dot) if dot >= 0 else -1
        if end >= 0:
            self.ended = True
            self.rest = data[end + 5 :]
            return data[: end + 2], dot < end
        self._carry = b""
        if data[-1:] in b"\r\n.":
            if self._normalize and (last := data.rfind(b"\n")) >= 0 and data[last + 1 :] in _DOT_BEGUN:
                before = _before_lone_dots(data, last)
                self._carry = data[last - (data[last - 1 : last] == b"\r") :]
                return data[:before], dot >= 0
            for tail in _TAILS:
                if data.endswith(tail):
                    self._carry = tail
                    return data[: -len(tail)], dot >= 0
        return data, dot >= 0

    def _measure(self, content: bytes) -> None:
        """Look for a line over the limit, in steps of as many whole lines as fit into the limit."""
        limit, rfind = self._line_limit, content.rfind
        begin = -self._line  # where the line that is open now began
        end = len(content)
        while end - begin > limit:
            begin = rfind(b"\n", begin if begin > 0 else 0, begin + limit) + 1
            if not begin:
                self._long = True
                self._line = 0
                return
        last = rfind(b"\n", begin if begin > 0 else 0)
        self._line = end - 1 - last if last >= 0 else end - begin


def _mended(piece: bytes) -> bytes:
    """``piece`` with all of its line ends CRLF, and without the lone dots that are no end."""
    text = piece.replace(b"\r\n", b"\n").replace(b"\r", b" ")
    while b"\n.\n" in text:
        text = text.replace(b"\n.\n", b"\n")
    return text.replace(b"\n", b"\r\n")


def _before_lone_dots(data: bytes, last: int) -> int:
    """Where the line ends whose line feed is ``data[last]``, or the first of the lone dots before it."""
    at = last - (data[last - 1 : last] == b"\r")
    while at >= 2 and data[at - 1] == 0x2E and data[at - 2] == 0x0A:
        at -= 2
        at -= data[at - 1 : at] == b"\r"
    return at
