"""Which settings a running server can change, and what differs between two configurations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import attrs

from mailserver.config.settings import Settings
from mailserver.config.words import as_table

LIVE_TABLES = ("limits", "login", "policy", "proxy", "submission", "tls")
"""Tables that count for the next connection."""

LIVE_RELAY = ("etrn", "give_up_after", "retry", "trusted_networks", "warn_after")
"""Keys of ``[relay]`` of which the same holds."""

NOT_LIVE = frozenset({"policy.terminals"})
"""Keys of those tables that are read at the start alone."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A key with its two values, as the file writes them; ``None``: it is not there."""

    key: str
    old: Any
    new: Any

    @property
    def is_live(self) -> bool:
        """Whether a running server can take it over."""
        table, _, name = self.key.partition(".")
        if self.key in NOT_LIVE:
            return False
        return table in LIVE_TABLES or (table == "relay" and name in LIVE_RELAY)


def differences(old: Settings, new: Settings) -> list[Difference]:
    """Every key whose value is another one."""
    return table_differences(as_table(old), as_table(new))


def table_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Difference]:
    """The same for settings in words."""
    before, after = dict(_flat(old)), dict(_flat(new))
    return [
        Difference(key, before.get(key), after.get(key))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        # Two levels are tables of ours; below them are tables that an administrator fills.
        if isinstance(value, Mapping) and not prefix:
            yield from _flat(value, f"{key}.")
        else:
            yield prefix + key, value


def merged(running: Settings, wanted: Settings) -> Settings:
    """``running`` with all of ``wanted`` that needs no restart."""
    relay = attrs.evolve(running.relay, **{key: getattr(wanted.relay, key) for key in LIVE_RELAY})
    tables = {key: getattr(wanted, key) for key in LIVE_TABLES if key != "tls"}
    # A certificate of one's own in the place of a made one, or the reverse, is another matter than its file.
    tls = wanted.tls if running.tls is not None and wanted.tls is not None else running.tls
    settings = attrs.evolve(running, relay=relay, tls=tls, **tables)
    policy = attrs.evolve(settings.policy, terminals=running.policy.terminals)
    return attrs.evolve(settings, policy=policy)
