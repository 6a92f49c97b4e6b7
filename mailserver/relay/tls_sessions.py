"""TLS sessions with other servers, kept so that the next handshake is short (RFC 8446 §2.2, RFC 5077)."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import NamedTuple

from OpenSSL import SSL

from mailserver.relay.protection import Level

KEPT_SECONDS = 3600.0
"""How long a session may be resumed; servers change the keys of their tickets every few hours."""
KEPT_AT_ONE = 4
"""Sessions with one address: each is used once (RFC 8446 §C.4), and several connections begin at once."""
PLACES = 500
"""Addresses whose sessions are kept; a session holds the host's certificates, some KiB."""


class Place(NamedTuple):
    """Where a session may be resumed: with the same host, at the same address, for the same demand."""

    host: str
    address: str
    port: int
    level: Level


class TLSSessions:
    """Sessions by place. Only such may be kept as nothing was verified in: a resumed handshake shows no
    certificate, so it could prove nothing about the host."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._kept: OrderedDict[Place, deque[tuple[SSL.Session, float]]] = OrderedDict()

    def take(self, place: Place) -> SSL.Session | None:
        """A session to resume, which nobody else gets; the youngest first."""
        kept = self._kept.get(place)
        if not kept:
            return None
        session, at = kept.pop()
        if self._now() - at <= KEPT_SECONDS:
            return session
        kept.clear()  # the others are older
        return None

    def keep(self, place: Place, session: SSL.Session) -> None:
        """``session`` may be resumed by the next connection."""
        kept = self._kept.setdefault(place, deque(maxlen=KEPT_AT_ONE))
        self._kept.move_to_end(place)
        if kept.maxlen:
            kept.append((session, self._now()))
        if len(self._kept) > PLACES:
            self._kept.popitem(last=False)

    def give_up(self, place: Place) -> None:
        """A handshake broke when a session was offered there: do that no more."""
        self._kept[place] = deque(maxlen=0)
