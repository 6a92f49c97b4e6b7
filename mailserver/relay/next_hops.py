"""Where each recipient of a message goes: a route or mail exchanges, and what is demanded there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from twisted.internet.defer import Deferred

from mailserver.interfaces import Exchange, IMailExchanges
from mailserver.relay.destinations import Key, Pace
from mailserver.relay.protection import OPPORTUNISTIC, Mismatch, Protection, Security
from mailserver.relay.routes import Route, RouteTable, route_from
from mailserver.values.envelope import Envelope


class Demands(Protocol):
    """What a domain demands of sessions with its mail exchanges; ``relay/security.py`` provides it."""

    def demands(
        self, domain: str, exchanges: Sequence[Exchange], envelope: Envelope
    ) -> Sequence[Security] | Deferred[Sequence[Security]]:
        """One for each exchange."""

    def observed(
        self,
        domains: Iterable[str],
        security: Security,
        host: str,
        address: str,
        reached: Protection | None,
        wrong: Mismatch | None,
    ) -> None:
        """What became of a new session for mail to ``domains``."""

    def refused(self, security: Security, host: str, address: str) -> None:
        """No session was tried with a host that ``security`` refuses."""


@dataclass(frozen=True, slots=True)
class Hop:
    """Hosts to try in order, with what is demanded of each (none: nothing special); ``route`` when an
    administrator chose them, or how to go there."""

    exchanges: Sequence[Exchange]
    securities: Sequence[Security]
    route: Route | None
    key: Key

    @property
    def pace(self) -> Pace | None:
        """The route's own limits; ``None``: the usual."""
        route = self.route
        if route is None or not (route.concurrency or route.per_minute):
            return None
        return Pace(route.concurrency or Pace().concurrency, route.per_minute)


class NextHops:
    """Routes before exchanges, and ``demands`` where exchanges decide."""

    def __init__(
        self, exchanges: IMailExchanges, routes: RouteTable | None = None, demands: Demands | None = None
    ) -> None:
        self._exchanges = exchanges
        self._routes = routes
        self._demands = demands

    async def hop(self, envelope: Envelope, domain: str, attempts: int = 0) -> Hop:
        """Where mail for ``domain`` goes at its next attempt, ``attempts`` having been made.

        Raises:
            NoExchange: nowhere, for good.
            LookupDelayed: that cannot be told now.
        """
        route = _ordered(envelope.route) if envelope.route else None
        if route is None and self._routes is not None:
            route = self._routes.route(domain, envelope.reverse_path, attempts)
        securities: Sequence[Security] = ()
        if route is not None and route.host:
            exchanges = await self._exchanges.next_hop(route.host, route.port)
        else:
            exchanges = await self._exchanges.exchanges(domain)
        if route is not None and (route.host or route.tls != "opportunistic"):
            security = route.security(envelope.require_tls)
            if security != OPPORTUNISTIC:
                securities = [security] * len(exchanges)
        elif self._demands is not None:
            demanded = self._demands.demands(domain, exchanges, envelope)
            securities = await demanded if isinstance(demanded, Deferred) else demanded
            if all(security is OPPORTUNISTIC for security in securities):
                securities = ()
        return Hop(exchanges, securities, route, _key(exchanges, securities, route))


def _ordered(url: str) -> Route | None:
    """The operator's next hop for one message; a damaged one is as good as none."""
    try:
        return replace(route_from(url), name=url)
    except ValueError:
        return None


def _key(exchanges: Sequence[Exchange], securities: Sequence[Security], route: Route | None) -> Key:
    if len(exchanges) == 1 and not securities:
        only = exchanges[0]
        return Key(((only.name, only.port),), route.name if route is not None else "")
    hosts = sorted((exchange.name, exchange.port) for exchange in exchanges)
    name = route.name if route is not None else ""
    if all(security == OPPORTUNISTIC for security in securities):
        return Key(tuple(hosts), name)
    demanded = {exchange.name: security for exchange, security in zip(exchanges, securities, strict=True)}
    return Key(tuple(hosts), name, tuple(demanded[host] for host, _ in hosts))
