"""Next hops that an administrator wrote down instead of MX records (``[relay.routes]``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from mailserver.values.address import domain_key

SMTP_PORT = 25
EVERYTHING = "*"


@dataclass(frozen=True, slots=True)
class Route:
    """A next hop: a host name or an IP address, without brackets."""

    host: str
    port: int


def route_from(url: str) -> Route:
    """The next hop in ``smtp://host``, ``smtp://192.0.2.1:2525`` or ``smtp://[2001:db8::1]:25``.

    Raises:
        ValueError: the text is something else; the message says what is wrong and what is right.
    """
    wanted = "expected smtp://host or smtp://host:port, an IPv6 address in brackets"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{url!r} is not a next hop ({error}); {wanted}") from None
    if parts.scheme != "smtp":
        raise ValueError(f"{url!r} does not begin with smtp://; {wanted}")
    if parts.username is not None or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(f"{url!r} says more than a host and a port; {wanted}")
    if not host or port == 0 or any(c.isspace() for c in url):
        raise ValueError(f"{url!r} names no host or no valid port; {wanted}")
    return Route(host, port or SMTP_PORT)


class RouteTable:
    """Next hops by domain; ``"*"`` is the smarthost for every domain that has none of its own."""

    def __init__(self, routes: Mapping[str, str]) -> None:
        """Raises ``ValueError`` that names the domain and what is wrong with its next hop."""
        self._routes: dict[str, Route] = {}
        for domain, url in routes.items():
            try:
                self._routes[domain_key(domain)] = route_from(url)
            except ValueError as error:
                raise ValueError(f"relay.routes, {domain!r}: {error}") from None

    def route(self, domain: str) -> Route | None:
        """The next hop for ``domain``, ``None`` when MX records decide."""
        return self._routes.get(domain_key(domain)) or self._routes.get(EVERYTHING)
