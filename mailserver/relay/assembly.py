"""The relay's parts, put together from the settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from mailserver.config import Settings
from mailserver.relay.agent import RelayAgent
from mailserver.relay.destinations import Pace
from mailserver.relay.exchanges import MailExchanges
from mailserver.relay.own_addresses import OwnAddresses
from mailserver.relay.resolver import Resolver
from mailserver.relay.routes import RouteTable
from mailserver.relay.security import TransportSecurity
from mailserver.relay.tls import ClientTLS


def make_relay(
    settings: Settings,
    reactor: Any,
    routes: RouteTable,
    listening: Callable[[], Iterable[tuple[str, int]]],
    in_thread: Callable[..., Awaitable[Any]],
    resolver: Resolver,
    tls: ClientTLS,
    security: TransportSecurity,
) -> RelayAgent:
    """The delivery agent for other servers. ``listening`` gives addresses and ports of our own SMTP
    listeners; ``in_thread`` runs a function elsewhere; ``security`` says what destinations demand."""
    relay = settings.relay
    exchanges = MailExchanges(
        resolver, settings.hostname, relay.port, relay.allow_loopback, OwnAddresses(listening)
    )
    pace = Pace(relay.concurrency, float(relay.messages_per_minute))
    return RelayAgent(
        reactor,
        exchanges,
        settings.hostname,
        pace,
        routes=routes,
        demands=security,
        tls=tls,
        in_thread=in_thread,
    )
