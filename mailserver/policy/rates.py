"""How much one client may send in a minute, counted in memory."""

from __future__ import annotations

from collections.abc import Callable

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
        self, messages: int, recipients: int, now: Callable[[], float], pressed: Callable[[], bool]
    ) -> None:
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
        counts = self._counts.setdefault(client_network(host), [0, 0])
        if counts[which] >= (max(limit // PRESSED_SHARE, 1) if self._pressed() else limit):
            return refusal
        counts[which] += 1
        return None
