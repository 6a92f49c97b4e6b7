"""Dot-stuffing: canonical content becomes the octets that follow 354 or a POP3 ``+OK``."""

from __future__ import annotations

from mailserver.values.line_ends import lf_text

_CRLF = b"\r\n"


def dot_stuffed(content: bytes) -> bytes:
    """A whole message for the wire: dots doubled, the end of data appended.

    The short way for what is in memory already; the same octets as ``DotStuffer`` gives.
    """
    ends_well = content.endswith(_CRLF) and not content.startswith(b".") and b"\r\n." not in content
    if ends_well and lf_text(content) is not None:
        return content + b".\r\n"
    stuffer = DotStuffer()
    body = stuffer.feed(content)
    return body + stuffer.finish()


END_OF_DATA = b".\r\n"
"""What stands behind a message whose last line has ended."""


def clean_dot_stuffed(content: bytes) -> bytes:
    """The same, but for ``END_OF_DATA``, for a message that is empty or ends in CRLF and has no CR or LF
    that stands alone."""
    if content.find(b"\r\n.") >= 0:  # `in` would first try whether the octets are a number
        content = content.replace(b"\r\n.", b"\r\n..")
    return b"." + content if content.startswith(b".") else content


class DotStuffer:
    """Doubles each dot that begins a line (RFC 5321 §4.5.2, RFC 1939 §3), chunk by chunk.

    Content is canonical, so a CR or LF on its own is not expected.  Should one come nevertheless,
    it leaves as a space: the length stays what SIZE or LIST said, nothing but CRLF ends a line on
    the wire, and no reader however lenient finds a second message in the first (RFC 5321 §2.3.8,
    §4.1.1.4).
    """

    __slots__ = ("_at_line_start", "_held_cr")

    def __init__(self) -> None:
        self._at_line_start = True
        self._held_cr = False

    def feed(self, chunk: bytes) -> bytes:
        """The next octets for the wire; a CR at the chunk's end waits for what follows it."""
        if self._held_cr:
            chunk = b"\r" + chunk
        self._held_cr = chunk.endswith(b"\r")
        if self._held_cr:
            chunk = chunk[:-1]
        return self._transform(chunk) if chunk else b""

    def finish(self) -> bytes:
        """The end of data, after a line end if the content lacked one."""
        stray = b" " if self._held_cr else b""
        at_line_start = self._at_line_start and not stray
        self._at_line_start, self._held_cr = True, False
        return b".\r\n" if at_line_start else stray + b"\r\n.\r\n"

    def _transform(self, chunk: bytes) -> bytes:
        if lf_text(chunk) is None:
            chunk = _without_strays(chunk)
        dot_first = self._at_line_start and chunk.startswith(b".")
        self._at_line_start = chunk.endswith(_CRLF)
        if b"." in chunk and b"\r\n." in chunk:  # a large attachment has none
            chunk = chunk.replace(b"\r\n.", b"\r\n..")
        return b"." + chunk if dot_first else chunk


def _without_strays(chunk: bytes) -> bytes:
    lines = chunk.split(_CRLF)
    return _CRLF.join([line.replace(b"\r", b" ").replace(b"\n", b" ") for line in lines])
