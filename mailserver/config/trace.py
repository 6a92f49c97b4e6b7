"""The table ``[trace]``: how long the server remembers what became of each message."""

from __future__ import annotations

from typing import Annotated

import attrs

from mailserver.config.kinds import BOOLEAN, DURATION, Kind
from mailserver.values.units import octets_from


def _or_nothing(value: object) -> float:
    return 0.0 if value == "" else DURATION(value)


def _octets(value: object) -> int:
    if value in ("", 0) and value is not False:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError
    try:
        octets = value if isinstance(value, int) else octets_from(value)
    except ValueError:
        raise ValueError from None
    if octets < 1024 * 1024:
        raise ValueError('at least "1 MiB", or "" for no limit')
    return octets


KEEP = Kind('a length of time, or "" for no trace', '"30d"', _or_nothing)
SPACE = Kind('an amount of octets with its unit, or "" for no limit', '"4 GiB"', _octets)


@attrs.frozen(kw_only=True)
class Trace:
    """``keep``: for how long, ``""`` for no trace and no ledger; ``size``: beyond so many octets the oldest
    days go first; ``mailboxes``: does the ledger look for the files of delivered messages? Not where other
    programs move or remove them."""

    keep: Annotated[float, KEEP] = 30 * 86400.0
    size: Annotated[int, SPACE] = 4 * 1024**3
    mailboxes: Annotated[bool, BOOLEAN] = True
