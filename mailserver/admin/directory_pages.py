"""What the commands that list users, aliases, mailing lists and domains share."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mailserver.admin.operator import Operator
from mailserver.admin.output import Output, Row

if TYPE_CHECKING:
    from mailserver.accounts.directory import SqliteDirectory


def show_all(
    operator: Operator,
    as_json: bool,
    read: Callable[[SqliteDirectory], Sequence[Row]],
    columns: Sequence[str],
    nothing: str,
    rare: Sequence[str] = (),
) -> None:
    """A table of what ``read`` gives; columns in ``rare`` only where a row has something there. Where no
    directory has been made yet, none is made for it."""
    output = Output(as_json)
    rows: Sequence[Row] = []
    if operator.accounts.exists():
        with operator.directory() as directory:
            rows = read(directory)
    shown = [column for column in columns if column not in rare or any(row.get(column) for row in rows)]
    output.rows(shown, rows, nothing)


def moment_text(seconds: float) -> str:
    """A moment as commands show it: ``2026-12-01 09:30``; ``""`` for 0."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds else ""


def targets_text(targets: Sequence[Any]) -> list[str]:
    """Targets of an alias: addresses, and deliveries as they were written."""
    return [str(one) if one.domain else one.local for one in targets]
