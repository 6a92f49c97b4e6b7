"""Settings in the words of the file again: what ``mailserver config show`` prints can be loaded."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, get_origin, get_type_hints

import attrs

from mailserver.config.kinds import SIZE, Kind
from mailserver.config.pairs import PAIRS
from mailserver.config.pop3 import DAYS
from mailserver.values.units import duration_text, octets_from


def as_table(settings: Any) -> dict[str, Any]:
    """A table of settings, lengths of time and amounts with their units; what is ``None`` is left out."""
    kinds = _kinds(type(settings))
    table = {
        field.name: _in_words(getattr(settings, field.name), kinds.get(field.name))
        for field in attrs.fields(type(settings))
    }
    return {key: value for key, value in table.items() if value is not None}


def _kinds(table: type) -> dict[str, Kind[Any]]:
    hints = get_type_hints(table, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items() if get_origin(hint) is Annotated}


def _in_words(value: Any, kind: Kind[Any] | None) -> Any:
    if attrs.has(type(value)):
        return as_table(value)
    if kind is PAIRS:
        return [{"certificate": str(certificate), "key": str(key)} for certificate, key in value]
    if isinstance(value, Mapping):
        return {key: _in_words(item, None) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_in_words(item, kind) for item in value]
    if isinstance(value, float):
        return duration_text(value) if value else ""
    if kind is DAYS:
        return f"{value}d" if value else ""
    if kind is SIZE:
        return _size(value)
    return str(value) if isinstance(value, Path | IPv4Network | IPv6Network) else value


def _size(octets: int) -> str | int:
    """With the largest unit that loses nothing."""
    for unit in ("GiB", "MiB", "KiB"):
        if octets % octets_from(f"1 {unit}") == 0:
            return f"{octets // octets_from(f'1 {unit}')} {unit}"
    return octets
