"""What an operator does to messages, put into the trace: by whom, when and why."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress

from mailserver.admin.operator import Operator
from mailserver.trace.records import line
from mailserver.trace.segments import FOLDER, append
from mailserver.values.text import printable


def note(
    operator: Operator,
    what: str,
    ids: Iterable[str],
    why: str = "",
    numbers: Mapping[str, list[int]] | None = None,
) -> None:
    """``what`` was done to messages, for example ``"removed"``; ``numbers``: to these recipients of each
    alone. A failing trace stops nobody."""
    settings = operator.settings
    if not settings.trace.keep:
        return
    now = time.time()
    fields = {"what": what, "by": operator.who, "why": printable(why)}
    some = numbers or {}
    lines = [
        line(id_, now, "operator", {**fields, **({"n": some[id_]} if id_ in some else {})}) for id_ in ids
    ]
    if lines:
        with suppress(OSError):
            append(settings.state / FOLDER, lines, now)
