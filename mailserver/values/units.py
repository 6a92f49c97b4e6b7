"""Lengths of time and amounts of octets, as people write them: ``1h20m``, ``50 MiB``."""

from __future__ import annotations

import re

_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_OCTETS = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
_DURATION = re.compile(
    r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,9}(?:\.\d{1,6})?)s)?", re.ASCII
)
_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,6})?) ?([A-Za-z]+)", re.ASCII)


def seconds_from(text: str) -> float:
    """Seconds in ``"5m"``, ``"1h20m"``, ``"5d"``, ``"0.5s"``: the largest unit first, each once.

    Raises:
        ValueError: the text is anything else.
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None or not match.group():
        raise ValueError(f"{text!r} is not a length of time like 5m, 1h20m or 5d")
    return sum((float(n) * unit for n, unit in zip(match.groups(), _SECONDS.values(), strict=True) if n), 0.0)


def duration_text(seconds: float) -> str:
    """The shortest text that ``seconds_from`` reads back, whole seconds above a minute: ``1h20m``."""
    if seconds < 60:
        return f"{seconds:.6f}".rstrip("0").rstrip(".") + "s"
    rest = round(seconds)
    parts = []
    for unit, length in _SECONDS.items():
        count, rest = divmod(rest, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def octets_from(text: str) -> int:
    """Octets in ``"50 MiB"``, ``"10 MB"``, ``"512KiB"``. Upper and lower case are the same.

    Raises:
        ValueError: the text is anything else, or does not come to whole octets.
    """
    match = _SIZE.fullmatch(text.strip())
    units = {name.lower(): size for name, size in _OCTETS.items()}
    if match is None or match[2].lower() not in units:
        raise ValueError(f"{text!r} is not an amount of octets like 50 MiB; units are {', '.join(_OCTETS)}")
    octets = float(match[1]) * units[match[2].lower()]
    if octets != int(octets):
        raise ValueError(f"{text!r} is not a whole number of octets")
    return int(octets)


def octets_text(octets: int) -> str:
    """Octets for people, to one decimal: ``50 MiB``, ``1.5 KiB``, ``17 B``."""
    for unit in ("GiB", "MiB", "KiB"):
        if octets >= _OCTETS[unit]:
            return f"{octets / _OCTETS[unit]:.1f}".removesuffix(".0") + f" {unit}"
    return f"{octets} B"
