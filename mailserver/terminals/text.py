"""What a terminal shows of a message: its text, cleaned of whatever a terminal would obey, and bounded."""

from __future__ import annotations

import email
import email.policy
import textwrap
import time
from collections.abc import Iterator
from email.message import EmailMessage

MOST_OCTETS = 64 * 1024
"""So much of a message is looked at."""

MOST_LINES = 200
LONGEST_LINE = 300
LONGEST_NAME = 200

# Joiners make Persian and Indian words readable, and turn nothing round.
_JOINERS = "\u200c\u200d"


def shown_lines(content: bytes, sender: str, now: float) -> list[str]:
    """The lines of a message from ``sender`` (as MAIL named it), of which ``content`` is the beginning;
    ``now`` is in seconds since the epoch."""
    message = _parsed(content[:MOST_OCTETS])
    lines = [
        f"--- {time.strftime('%H:%M', time.localtime(now))} message from <{clean(sender, LONGEST_NAME)}>"
    ]
    for name in ("From", "Subject"):
        if text := _field(message, name):
            lines.append(f"{name}: {clean(text, LONGEST_NAME)}")
    lines.append("")
    lines += _bounded(_body(message))
    return [*lines, "---"]


def clean(text: str, longest: int = LONGEST_LINE) -> str:
    """``text`` on one line, with ``?`` for what is not printable: controls (ESC, and those of C1), marks that
    turn the direction of text round, separators, surrogates; tabs become spaces."""
    text = text[: longest + 1].expandtabs(8)
    if not text.isprintable():
        text = "".join(c if c.isprintable() or c in _JOINERS else "?" for c in text)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _parsed(content: bytes) -> EmailMessage:
    return email.message_from_bytes(content, policy=email.policy.default)


def _field(message: EmailMessage, name: str) -> str:
    try:
        return str(message.get(name) or "")
    except Exception:  # the parser of fields has more ways to fail than it documents
        return "(cannot be read)"


def _body(message: EmailMessage) -> str:
    """The plain text, or a word on why there is none."""
    try:
        part = message.get_body(("plain",))
        found = part.get_content() if part is not None else "(there is no plain text in it)"
    except Exception:  # unknown charsets, broken base64 and more
        return "(its text cannot be read)"
    return found if isinstance(found, str) else "(there is no plain text in it)"


def _bounded(text: str) -> Iterator[str]:
    # Only these end a line here; what else Python takes for a line end is cleaned away.
    rest = text[:MOST_OCTETS].replace("\r\n", "\n").rstrip("\n").split("\n")
    for n, line in enumerate(rest):
        if n >= MOST_LINES:
            yield f"({len(rest) - n} more lines)"
            return
        yield from textwrap.wrap(clean(line), 120, drop_whitespace=False, replace_whitespace=False) or [""]
