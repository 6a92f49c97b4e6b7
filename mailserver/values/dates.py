"""Dates as mail headers write them (RFC 5322 §3.3)."""

from __future__ import annotations

import time
from functools import lru_cache

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@lru_cache(maxsize=8)
def _date(second: int) -> str:
    at = time.localtime(second)
    zone = at.tm_gmtoff // 60
    sign, zone = ("-", -zone) if zone < 0 else ("+", zone)
    return (
        f"{_DAYS[at.tm_wday]}, {at.tm_mday:02d} {_MONTHS[at.tm_mon - 1]} {at.tm_year:04d} "
        f"{at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d} {sign}{zone // 60:02d}{zone % 60:02d}"
    )


def header_date(seconds: float) -> str:
    """``Sun, 22 Nov 2026 19:44:37 +0000`` for seconds since the epoch, in local time, never in the
    machine's language."""
    return _date(int(seconds))
