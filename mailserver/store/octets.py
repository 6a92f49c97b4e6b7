"""Line ends: mailboxes keep LF, SMTP and POP3 speak CRLF; both ways in pieces of bounded memory."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator

from mailserver.values.line_ends import count_lf, lf_text

READ_OCTETS = 64 * 1024
"""How much of a file is read at once."""

READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
"""How a file that anybody may have put there is opened: never through a symlink, never waiting."""


_NOWAIT = getattr(os, "RWF_NOWAIT", 0)
_room = bytearray(READ_OCTETS)
_rooms, _view = (_room,), memoryview(_room)


def at_once(fd: int) -> bytes:
    """What an open file begins with, as far as it is in memory and no longer than ``READ_OCTETS``.

    For the reactor's thread alone: it never waits for the disk, and there is one buffer for all.

    Raises:
        OSError: nothing of it is in memory, or the file system does not promise to tell, as NFS and FUSE.
    """
    return bytes(_view[: os.preadv(fd, _rooms, 0, _NOWAIT)])


def is_in_memory(fd: int, start: int, end: int) -> bool:
    """Whether this part of an open file can be read without waiting. For the reactor's thread alone."""
    try:
        return end - start <= os.preadv(fd, _rooms, start, _NOWAIT)
    except OSError:
        return False


def to_lf(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """CRLF becomes LF; a CR or LF that stands alone stays as it is."""
    held = b""
    for piece in pieces:
        piece = held + piece
        held = b"\r" if piece.endswith(b"\r") else b""  # its LF may be in the next piece
        yield whole_to_lf(piece[:-1] if held else piece)
    if held:
        yield held


def whole_to_lf(octets: bytes) -> bytes:
    """``to_lf`` of octets that end with no half of a CRLF."""
    text = lf_text(octets)
    return octets.replace(b"\r\n", b"\n") if text is None else text


def to_crlf(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """LF becomes CRLF unless a CR stands before it; CRLF is added where the last line has no end.

    What it gives can be sent by POP3 as it is, but for dot-stuffing, whatever wrote the file.
    """
    held = b""
    last = b""
    for piece in pieces:
        piece = held + piece
        held = b"\r" if piece.endswith(b"\r") else b""
        if held:
            piece = piece[:-1]
        if b"\r" in piece:
            piece = piece.replace(b"\r\n", b"\n")
        piece = piece.replace(b"\n", b"\r\n")
        if piece:
            last = piece
            yield piece
    if held:
        yield b"\r\r\n"
    elif last and not last.endswith(b"\n"):
        yield b"\r\n"


def canonical(octets: bytes) -> bytes | None:
    """What ``to_crlf`` makes of a message that is in memory; ``None`` where a CR stands without its LF."""
    if octets.find(b"\r") >= 0:  # `in` would first try whether the octets are a number
        octets = octets.replace(b"\r\n", b"\n")
        if b"\r" in octets:
            return None
    octets = octets.replace(b"\n", b"\r\n")
    return octets if octets.endswith(b"\n") or not octets else octets + b"\r\n"


def crlf_octets(octets: bytes) -> int:
    """How many octets ``to_crlf`` makes of a message that is in memory."""
    size = len(octets) + count_lf(octets)
    if b"\r" in octets:
        size -= octets.count(b"\r\n")
    return size if octets.endswith(b"\n") or not octets else size + 2


class CrlfCount:
    """Counts what ``to_crlf`` would make of pieces that pass by."""

    def __init__(self) -> None:
        self._octets = 0
        self._last = b""

    def add(self, piece: bytes) -> None:
        """The next octets of the message."""
        if piece:
            self._octets += len(piece) + count_lf(piece)
            if b"\r" in piece:
                self._octets -= piece.count(b"\r\n")
            if self._last == b"\r" and piece.startswith(b"\n"):
                self._octets -= 1
            self._last = piece[-1:]

    @property
    def total(self) -> int:
        """Octets on the wire, before dot-stuffing."""
        return self._octets + (2 if self._last not in (b"", b"\n") else 0)


def open_regular(path: str) -> int:
    """A descriptor for reading a regular file.

    Raises:
        OSError: the file is missing, not readable, or a symlink, FIFO, folder or device.
    """
    fd = os.open(path, READ)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(f"{path} is not a regular file")
    except BaseException:
        os.close(fd)
        raise
    return fd


def pieces_of(fd: int, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """The octets of an open file from ``start`` to ``end``, or to its own end if that comes first."""
    while end is None or start < end:
        wanted = READ_OCTETS if end is None else min(READ_OCTETS, end - start)
        piece = os.pread(fd, wanted, start)
        if not piece:
            return
        start += len(piece)
        yield piece
