"""What a terminal shows of a message: its text, cleaned of whatever a terminal would obey, and bounded."""

from __future__ import annotations

import binascii
import re
import textwrap
import time
from collections.abc import Iterator
from email.header import decode_header, make_header

MOST_OCTETS = 64 * 1024
"""So much of a message is looked at."""

HEADER_OCTETS = 32 * 1024
FIELD_OCTETS = 500
DEEPEST = 3
"""Parts within parts that are looked into."""

MOST_LINES = 200
LONGEST_LINE = 300
LONGEST_NAME = 200

# Joiners make Persian and Indian words readable, and turn nothing round.
_JOINERS = "\u200c\u200d"


_FIELDS = {b"from", b"subject", b"content-type", b"content-transfer-encoding"}
_FOLD = re.compile(rb"\r\n[ \t]")
_CHARSET = re.compile(r"charset=\"?([a-z0-9_.:-]{1,40})")
_BOUNDARY = re.compile(r"boundary=(?:\"([^\"]{1,70})\"|([^\s;\"]{1,70}))", re.IGNORECASE)
_NO_TEXT = "(there is no plain text in it)"
_UNREADABLE = "(its text cannot be read)"


def shown_lines(content: bytes, sender: str, now: float) -> list[str]:
    """The lines of a message from ``sender`` (as MAIL named it), of which ``content`` is the beginning;
    ``now`` is in seconds since the epoch."""
    fields, body = _split(content[:MOST_OCTETS])
    lines = [
        f"--- {time.strftime('%H:%M', time.localtime(now))} message from <{clean(sender, LONGEST_NAME)}>"
    ]
    for name in ("From", "Subject"):
        if text := _field(fields, name.lower().encode()):
            lines.append(f"{name}: {clean(text, LONGEST_NAME)}")
    lines.append("")
    lines += _bounded(_body(fields, body))
    return [*lines, "---"]


def clean(text: str, longest: int = LONGEST_LINE) -> str:
    """``text`` on one line, with ``?`` for what is not printable: controls (ESC, and those of C1), marks that
    turn the direction of text round, separators, surrogates; tabs become spaces."""
    text = text[: longest + 1].expandtabs(8)
    if not text.isprintable():
        text = "".join(c if c.isprintable() or c in _JOINERS else "?" for c in text)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _split(octets: bytes) -> tuple[dict[bytes, str], bytes]:
    """The first of each field that matters here, unfolded and cut short, and what follows the header.

    Python's own parser of messages takes more than linear time for hostile ones.
    """
    head, _, body = (b"\r\n" + octets).partition(b"\r\n\r\n")
    fields: dict[bytes, str] = {}
    for line in _FOLD.sub(b" ", head[:HEADER_OCTETS]).split(b"\r\n"):
        name, _, value = line[: FIELD_OCTETS + 40].partition(b":")
        if (key := name.strip().lower()) in _FIELDS and key not in fields:
            fields[key] = value[:FIELD_OCTETS].decode("utf-8", "replace").strip()
    return fields, body


def _field(fields: dict[bytes, str], name: bytes) -> str:
    text = fields.get(name, "")
    try:
        return str(make_header(decode_header(text)))
    except Exception:  # unknown charsets, broken base64
        return text


def _body(fields: dict[bytes, str], octets: bytes, depth: int = 0) -> str:
    """The plain text, or a word on why there is none."""
    kind = fields.get(b"content-type", "text/plain").lower()
    if kind.startswith("multipart/"):
        part = _first_part(fields[b"content-type"], octets) if depth < DEEPEST else None
        return _body(*_split(part), depth + 1) if part is not None else _NO_TEXT
    if not kind.startswith("text/plain"):
        return _NO_TEXT
    try:
        found = _CHARSET.search(kind)
        return _decoded(fields, octets).decode(found[1] if found else "utf-8", "replace")
    except (LookupError, ValueError):
        return _UNREADABLE


def _first_part(kind: str, octets: bytes) -> bytes | None:
    """The first part of a multipart body: plain text stands first where there is any (RFC 2046 §5.1.4)."""
    found = _BOUNDARY.search(kind)
    if not found:
        return None
    mark = b"\r\n--" + (found[1] or found[2]).encode()
    _, begun, rest = (b"\r\n" + octets).partition(mark)
    return rest.partition(b"\r\n")[2].partition(mark)[0] if begun else None


def _decoded(fields: dict[bytes, str], octets: bytes) -> bytes:
    encoding = fields.get(b"content-transfer-encoding", "").lower()
    if encoding.startswith("base64"):
        clean = octets.translate(None, b"\r\n")
        return binascii.a2b_base64(clean[: len(clean) // 4 * 4])
    return binascii.a2b_qp(octets) if encoding.startswith("quoted") else octets


def _bounded(text: str) -> Iterator[str]:
    """At most so many lines, none longer than a terminal is wide."""
    # Only these end a line here; what else Python takes for a line end is cleaned away.
    rest = text[:MOST_OCTETS].replace("\r\n", "\n").rstrip("\n").split("\n")
    for n, line in enumerate(rest):
        if n >= MOST_LINES:
            yield f"({len(rest) - n} more lines)"
            return
        yield from textwrap.wrap(clean(line), 120, drop_whitespace=False, replace_whitespace=False) or [""]
