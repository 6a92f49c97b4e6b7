"""How much one client may send in a minute, counted in memory."""

from __future__ import annotations

import time
from collections.abc import Callable

from mailserver.shared_counts import MESSAGES, RECIPIENTS, SharedCounts
from mailserver.values.clients import client_network
from mailserver.values.reply import Reply, reply

MINUTE = 60.0
MOST_CLIENTS = 20_000
"""Networks counted in one minute; beyond them all begin anew, so that a flood costs no memory."""

TOO_MANY_MESSAGES = reply(450, "4.7.0", "Too many messages from your network in one minute; try again later")
TOO_MANY_RECIPIENTS = reply(
    450, "4.7.0", "Too many recipients from your network in one minute; try again later"
)
PRESSED_SHARE = 10
"""While the server is pressed a client may send a tenth."""


class ClientRates:
    """Counts messages and recipients by IPv4 address or IPv6 /64, minute by minute; 0 is no limit."""

    def __init__(
        self,
        messages: int,
        recipients: int,
        now: Callable[[], float],
        pressed: Callable[[], bool],
        shared: SharedCounts | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """``shared`` has the counts of other workers, minute by minute of ``wall``."""
        self._shared = shared
        self._wall = wall
        self._messages = messages
        self._recipients = recipients
        self._now = now
        self._pressed = pressed
        self._began = now()
        self._counts: dict[str, list[int]] = {}

    def message(self, host: str) -> Reply | None:
        """Count a MAIL; the refusal when it is one too many."""
        return self._count(host, 0, self._messages, TOO_MANY_MESSAGES)

    def recipient(self, host: str) -> Reply | None:
        """Count a RCPT; the refusal when it is one too many."""
        return self._count(host, 1, self._recipients, TOO_MANY_RECIPIENTS)

    def _count(self, host: str, which: int, limit: int, refusal: Reply) -> Reply | None:
        if not limit:
            return None
        now = self._now()
        if now - self._began >= MINUTE or len(self._counts) > MOST_CLIENTS:
            self._counts.clear()
            self._began = now
        network = client_network(host)
        counts = self._counts.setdefault(network, [0, 0])
        most = max(limit // PRESSED_SHARE, 1) if self._pressed() else limit
        if counts[which] >= most or (self._shared is not None and self._is_enough(which, network, most)):
            return refusal
        counts[which] += 1
        return None

    def _is_enough(self, which: int, network: str, most: int) -> bool:
        """Whether all workers together have had enough of a network; else this counts too."""
        assert self._shared is not None
        minute, kind = int(self._wall() // MINUTE), (MESSAGES, RECIPIENTS)[which]
        if self._counts[network][which] + self._shared.counted(kind, network, minute) >= most:
            return True
        self._shared.count(kind, network, minute)
        return False
