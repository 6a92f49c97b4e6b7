"""Next hops that an administrator wrote down instead of MX records (``[relay.routes]``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from mailserver.config.routes import RouteSettings
from mailserver.relay.protection import CLEAR, OPPORTUNISTIC, WEBPKI, Level, Security
from mailserver.values.address import Address, domain_key

SMTP_PORT, SUBMISSIONS_PORT = 25, 465
EVERYTHING = "*"

_NO_TLS = "the sender requires TLS all the way (REQUIRETLS), and the route goes without"


class CredentialsUnreadable(Exception):
    """The password of a route cannot be had now; the text says why. The message waits."""


@dataclass(frozen=True, slots=True)
class Route:
    """A next hop: ``host`` a name or an IP address without brackets, or ``""`` for the domain's own mail
    exchanges; and how to go there. ``after`` counts the attempts that are made without it first; ``name`` is
    its key in the table; ``concurrency`` and ``per_minute`` are 0 where nothing is said."""

    host: str
    port: int
    tls: str = "opportunistic"
    certificate_name: str = ""
    user: str = ""
    password_file: Path | None = None
    source: tuple[str, ...] = ()
    hello: str = ""
    after: int = 0
    concurrency: int = 0
    per_minute: float = 0.0
    name: str = ""

    def security(self, require_tls: bool = False) -> Security:
        """What ``tls`` demands of a session; ``require_tls`` (RFC 8689) may ask for more, but not for what
        the administrator forbids."""
        names = (self.certificate_name or self.host,)
        if self.tls == "none":
            return CLEAR if not require_tls else replace(CLEAR, refused=_NO_TLS, status="5.7.30")
        if require_tls or self.tls in ("required", "implicit"):
            implicit = self.tls == "implicit"
            return Security(Level.VERIFIED, WEBPKI, names, require_tls=require_tls, implicit=implicit)
        return Security(Level.ENCRYPTED) if self.tls == "encrypted" else OPPORTUNISTIC

    def login(self) -> tuple[str, str] | None:
        """User and password, read anew for each session.

        Raises:
            CredentialsUnreadable: the file is not there, may not be read, or is empty.
        """
        if not self.user or self.password_file is None:
            return None
        try:
            lines = self.password_file.read_text("utf-8").splitlines()
        except OSError as error:
            raise CredentialsUnreadable(f"{self.password_file}: {error.strerror or error}") from None
        except ValueError:
            raise CredentialsUnreadable(f"{self.password_file} is not UTF-8") from None
        if not lines or not lines[0]:
            raise CredentialsUnreadable(f"{self.password_file}: its first line, the password, is empty")
        return self.user, lines[0]

    def source_for(self, address: str) -> str:
        """The address of ours to come from when going to ``address``; ``""``: the system's choice."""
        version = ip_address(address).version
        return next((own for own in self.source if ip_address(own).version == version), "")


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


def _route_of(key: str, value: str | RouteSettings) -> Route:
    if isinstance(value, str):
        return replace(route_from(value), name=key)
    usual = SUBMISSIONS_PORT if value.tls == "implicit" else SMTP_PORT
    return Route(
        host=value.host,
        port=value.port or usual,
        tls=value.tls,
        certificate_name=value.certificate_name,
        user=value.user,
        password_file=value.password_file,
        source=value.source,
        hello=value.ehlo,
        after=value.after,
        concurrency=value.concurrency,
        per_minute=float(value.messages_per_minute),
        name=key,
    )


class RouteTable:
    """Next hops by the recipient's domain, by the sender (``ada@example.test``, ``@example.test``), and
    ``"*"`` for everything else; who is found in this order wins."""

    def __init__(self, routes: Mapping[str, str | RouteSettings]) -> None:
        """Raises ``ValueError`` that names the key and what is wrong with its next hop."""
        self._routes: dict[str, Route] = {}
        self._by_sender = False
        for key, value in routes.items():
            try:
                self._routes[_normal(key)] = _route_of(key, value)
            except ValueError as error:
                raise ValueError(f"relay.routes, {key!r}: {error}") from None
            self._by_sender |= "@" in key

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes.values())

    def route(self, domain: str, sender: Address | None = None, attempts: int = 0) -> Route | None:
        """The next hop for ``domain`` in mail from ``sender`` that was tried ``attempts`` times already,
        ``None`` when MX records decide."""
        if not self._routes:
            return None
        keys = [domain_key(domain)]
        if self._by_sender and sender is not None:
            at = f"@{domain_key(sender.domain)}"
            keys += [sender.local.lower() + at, at]
        for key in (*keys, EVERYTHING):
            route = self._routes.get(key)
            if route is not None and attempts >= route.after:
                return route
        return None


def _normal(key: str) -> str:
    local, at, domain = key.rpartition("@")
    return local.lower() + at + domain_key(domain)
