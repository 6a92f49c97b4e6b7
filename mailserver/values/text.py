"""Strangers' text made fit for a log line, a header or a report: one line, printable, bounded."""

from __future__ import annotations

TEXT_LIMIT = 500
"""Characters of a remote reply or a client's word that we repeat."""


def printable(text: str, limit: int = TEXT_LIMIT) -> str:
    """``text`` on one line: whatever is not printable (controls, line and paragraph separators,
    directional marks, surrogates) becomes ``\\x1b`` or ``\\u2028``; what is over ``limit`` is cut.

    Letters of every alphabet stay as they are: people read these lines.
    """
    if len(text) > limit:
        text = text[:limit] + "..."
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode("ascii") for c in text
    )
