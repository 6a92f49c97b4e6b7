"""mboxrd quoting: a line that begins with ``>*From `` gains one ``>`` in the mailbox and loses it again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_FROM = b"From "
_QUOTE = ord(">")
_BEGINNINGS = tuple(_FROM[:n] for n in range(4, 0, -1))


def quoted(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Content with LF line ends as an mbox holds it.

    The new ``>`` goes right before ``From``, which gives the same line as one at its start: so no
    more than four octets are ever held back, however long the line.
    """
    return _edited(pieces, quoting=True)


def unquoted(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The reverse of ``quoted``."""
    return _edited(pieces, quoting=False)


def _edited(pieces: Iterable[bytes], quoting: bool) -> Iterator[bytes]:
    at_start = True  # only ">" since the last line end
    held = b""
    for piece in pieces:
        octets = held + piece
        held = _possible(octets)
        if not quoting and octets[: len(octets) - len(held)].endswith(b">"):
            held = b">" + held  # it must go if "From " is complete
        body = octets[: len(octets) - len(held)] if held else octets
        edited = b"".join(_cut(body, at_start, quoting)) if _FROM in body else body
        if edited:
            yield edited
        at_start = _only_quotes_since_line_end(body, at_start)
    if held:
        yield held


def _possible(octets: bytes) -> bytes:
    """The last octets if "From " may begin with them."""
    for beginning in _BEGINNINGS:
        if octets.endswith(beginning):
            return beginning
    return b""


def _only_quotes_since_line_end(body: bytes, before: bool) -> bool:
    if body.endswith(b"\n"):
        return True
    rest = body.rstrip(b">")
    return rest.endswith(b"\n") or (not rest and before)


def _cut(body: bytes, at_start: bool, quoting: bool) -> Iterator[bytes]:
    done = 0
    found = body.find(_FROM)
    while found >= 0:
        line = found
        while line > done and body[line - 1] == _QUOTE:
            line -= 1
        if body[line - 1 : line] == b"\n" if line else at_start:
            if quoting:
                yield body[done:found] + b">"
                done = found
            elif line < found:
                yield body[done : found - 1]
                done = found
        found = body.find(_FROM, found + len(_FROM))
    yield body[done:]
