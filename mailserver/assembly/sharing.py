"""Several workers: what each of them may of what the settings allow to all together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from mailserver.config import Settings
from mailserver.listeners import Place
from mailserver.shared_counts import FILE_NAME, SharedCounts


def counts_of(settings: Settings, place: Place) -> SharedCounts | None:
    """What strangers do, counted by all workers together; a single process has its own memory for that."""
    return SharedCounts(settings.state / FILE_NAME, place.number, place.count) if place.count > 1 else None


def share_of(settings: Settings, workers: int) -> Settings:
    """``settings`` for one of ``workers``: at other servers' doors each has its part of the sessions and
    messages, so that together they keep to the limits; at least one each."""
    if workers == 1:
        return settings
    routes = {name: _divided(route, workers) for name, route in settings.relay.routes.items()}
    return attrs.evolve(settings, relay=_divided(attrs.evolve(settings.relay, routes=routes), workers))


def _divided(limits: Any, workers: int) -> Any:
    if isinstance(limits, str | Mapping):
        return limits
    parts = {
        name: -(-most // workers)
        for name in ("concurrency", "messages_per_minute")
        if (most := getattr(limits, name, None))
    }
    return attrs.evolve(limits, **parts)
