"""Where each recipient of a message goes: a route or mail exchanges, and what is demanded there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mailserver.interfaces import Exchange, IMailExchanges
from mailserver.relay.destinations import Key, Pace
from mailserver.relay.protection import OPPORTUNISTIC, Mismatch, Protection, Security
from mailserver.relay.routes import Route, RouteTable, route_from
from mailserver.values.address import domain_key
from mailserver.values.envelope import Envelope

_PLAIN = 4096


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

    def trouble(self, domain: str) -> str:
        """What cannot be learnt of the demands of ``domain``."""

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

        self._plain: dict[str, Hop] = {}
        """What was found last for a route of which nothing is demanded, by its name."""

    async def hop(self, envelope: Envelope, domain: str, attempts: int = 0) -> Hop:
        """Where mail for ``domain`` goes at its next attempt, ``attempts`` having been made.

        Raises:
            NoExchange: nowhere, for good.
            LookupDelayed: that cannot be told now.
        """
        found = self.find(envelope, domain, attempts)
        return await found if isinstance(found, Deferred) else found

    def find(self, envelope: Envelope, domain: str, attempts: int = 0) -> Hop | Deferred[Hop]:
        """The same, without a Deferred where nobody need be asked: nearly always somebody was just now."""
        route, asked = self.look_up(envelope, domain, attempts)
        if not asked.called or asked.paused or isinstance(asked.result, Failure):
            return Deferred.fromCoroutine(self._after(asked, envelope, domain, route))
        exchanges: Any = asked.result
        return self._found(exchanges, envelope, domain, route)

    def trouble(self, domain: str) -> str:
        """What cannot be learnt of what ``domain`` demands; ``""``: nothing is missing."""
        return self._demands.trouble(domain) if self._demands is not None else ""

    def look_up(
        self, envelope: Envelope, domain: str, attempts: int = 0
    ) -> tuple[Route | None, Deferred[Sequence[Exchange]]]:
        """The route, if there is one, and the hosts, of whom nothing is demanded yet."""
        route = _ordered(envelope.route) if envelope.route else None
        if route is None and self._routes is not None:
            route = self._routes.route(domain, envelope.reverse_path, attempts)
        if route is not None and route.host:
            return route, self._exchanges.next_hop(route.host, route.port)
        return route, self._exchanges.exchanges(domain)

    async def _after(
        self, asked: Deferred[Sequence[Exchange]], envelope: Envelope, domain: str, route: Route | None
    ) -> Hop:
        found = self._found(await asked, envelope, domain, route)
        return await found if isinstance(found, Deferred) else found

    def _found(
        self, exchanges: Sequence[Exchange], envelope: Envelope, domain: str, route: Route | None
    ) -> Hop | Deferred[Hop]:
        if route is not None and (route.host or route.tls != "opportunistic"):
            security = route.security(envelope.require_tls)
            if security is OPPORTUNISTIC:
                return self._by_route(exchanges, route)
            if not route.host:
                # The domain's own exchanges: who runs them may want TLS reports (RFC 8460).
                security = replace(security, domain=domain_key(domain))
            return _hop(exchanges, [security] * len(exchanges), route)
        if self._demands is None:
            return _hop(exchanges, (), route)
        demanded = self._demands.demands(domain, exchanges, envelope)
        if isinstance(demanded, Deferred):
            return demanded.addCallback(lambda securities: _hop(exchanges, securities, route))
        return _hop(exchanges, demanded, route)

    def _by_route(self, exchanges: Sequence[Exchange], route: Route) -> Hop:
        known = self._plain.get(route.name)
        if known is None or known.exchanges is not exchanges or known.route is not route:
            known = _hop(exchanges, (), route)
            if len(self._plain) >= _PLAIN:
                self._plain.clear()
            self._plain[route.name] = known
        return known


def _hop(exchanges: Sequence[Exchange], securities: Sequence[Security], route: Route | None) -> Hop:
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
