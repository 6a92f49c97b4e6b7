"""What can be read of a file with mistakes in it, for who looks after a running server meanwhile."""

from __future__ import annotations

import difflib
from functools import cache
from pathlib import Path
from typing import Any

import attrs

from mailserver.config.mistakes import ConfigError, Mistake
from mailserver.config.reading import UNKNOWN, read_table, table_in
from mailserver.config.settings import Settings

PASSED_OVER = ("limits", "listen", "policy", "relay", "tls")
"""Tables that say nothing of where accounts, queue and mailboxes are, nor of what is kept of a password."""


def load_despite(path: Path) -> tuple[Settings, tuple[Mistake, ...]]:
    """The settings in a file, and the mistakes in tables that do not matter for finding the server's files;
    what is wrong there is as if it were not in the file.

    Raises:
        ConfigUnreadable: there is no such file, or it may not be read.
        ConfigError: something else is wrong too; names all of it.
    """
    table = table_in(path)
    try:
        return read_table(table, path), ()
    except ConfigError as error:
        if not all(_without(table, mistake) for mistake in error.mistakes):
            raise
        try:
            return read_table(table, path), error.mistakes
        except ConfigError:
            raise error from None


def _without(table: dict[str, Any], mistake: Mistake) -> bool:
    """Take the value of a mistake away, or all of its table; whether that is allowed."""
    name, _, rest = mistake.key.partition(".")
    if name not in PASSED_OVER or (mistake.text.startswith(UNKNOWN) and _belongs_elsewhere(rest)):
        return False
    inner, key = table.get(name), rest.partition(".")[0].partition("[")[0]
    if isinstance(inner, dict) and key and name != "tls":  # certificate and key stand together
        inner.pop(key, None)
    else:
        table.pop(name, None)
    return True


def _belongs_elsewhere(key: str) -> bool:
    """Whether it is, or nearly is, a key of another place: with a header like [limits] above ``state = …``
    by mistake, the server's files would be looked for where they are not."""
    return bool(difflib.get_close_matches(key, _elsewhere()))


@cache
def _elsewhere() -> tuple[str, ...]:
    names: list[str] = []
    for field in attrs.fields(Settings):
        names.append(field.name)
        table = getattr(field.default, "factory", None)
        if field.name not in PASSED_OVER and isinstance(table, type) and attrs.has(table):
            names += [inner.name for inner in attrs.fields(table)]
    return tuple(names)
