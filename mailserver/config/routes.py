"""``[relay.routes]``: a next hop as a URL, or as a table that says more."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import attrs

from mailserver.config.kinds import DOMAIN, NAME, ROUTE, TEXT_PATH, Kind, Wrong, shown, whole

TLS_WORDS = ("none", "opportunistic", "encrypted", "required", "implicit")


@attrs.frozen(kw_only=True)
class RouteSettings:
    """A route's table. Without ``host`` the mail exchanges of the domain stay, and only the rest holds."""

    host: str = ""
    port: int = 0
    tls: str = "opportunistic"
    certificate_name: str = ""
    user: str = ""
    password_file: Path | None = None
    source: tuple[str, ...] = ()
    ehlo: str = ""
    after: int = 0
    concurrency: int = 0
    messages_per_minute: int = 0


def _host(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError
    try:
        return str(ip_address(value))
    except ValueError:
        return value if value == "localhost" else str(NAME(value))


def _tls(value: object) -> str:
    if not isinstance(value, str) or value not in TLS_WORDS:
        raise ValueError
    return value


def _user(value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError
    return value


def _address(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError
    return str(ip_address(value))


def _addresses(value: object) -> tuple[str, ...]:
    listed = (value,) if isinstance(value, str) else value
    if not isinstance(listed, list | tuple):
        raise ValueError
    return tuple(_address(one) for one in listed)


_PORT = Kind("a port from 1 to 65535", "587", whole(1, 65535))
_KEYS: dict[str, Kind[Any]] = {
    "host": Kind("a host's name or IP address", '"smart.test"', _host),
    "port": _PORT,
    "tls": Kind("one of " + ", ".join(f'"{word}"' for word in TLS_WORDS), '"required"', _tls),
    "certificate_name": NAME,
    "user": Kind("a user's name", '"ada"', _user),
    "password_file": TEXT_PATH,
    "source": Kind("an IP address of this machine, or a list of two", '"192.0.2.7"', _addresses),
    "ehlo": NAME,
    "after": Kind("a number of attempts", "3", whole(0, 1000)),
    "concurrency": Kind("a number of sessions", "20", whole(1, 1000)),
    "messages_per_minute": Kind("a number of messages, 0 for no limit", "60", whole(0, 1_000_000)),
}


def routes_from(value: object) -> Mapping[str, str | RouteSettings]:
    """The whole table; all that is wrong in it is told at once."""
    if not isinstance(value, dict):
        raise ValueError
    routes: dict[str, str | RouteSettings] = {}
    sentences: list[tuple[str, str]] = []
    for key, hop in value.items():
        suffix = f'."{key}"'
        _told(sentences, suffix, _check_key, key)
        found = _told(sentences, suffix, _hop, hop)
        if found is not None:
            routes[key] = found
    if sentences:
        raise Wrong(sentences)
    return routes


def _told(sentences: list[tuple[str, str]], suffix: str, read: Callable[[Any], Any], value: object) -> Any:
    try:
        return read(value)
    except Wrong as wrong:
        sentences += [(suffix + more, text) for more, text in wrong.sentences]
    return None


def _check_key(key: str) -> None:
    """A domain, ``*``, a sender, or ``@`` and a sender's domain."""
    if key == "*":
        return
    try:
        DOMAIN(key.rpartition("@")[2])
    except Wrong:
        what = 'not a domain; the key of a route is a domain, a sender or "*"'
        raise Wrong([("", what)]) from None


def _hop(value: object) -> str | RouteSettings:
    if not isinstance(value, dict):
        return ROUTE(value)
    sentences: list[tuple[str, str]] = []
    given: dict[str, Any] = {}
    for key, one in value.items():
        kind = _KEYS.get(key)
        if kind is None:
            near = difflib.get_close_matches(key, _KEYS, 1)
            remedy = f"did you mean {near[0]}?" if near else f"known are {', '.join(_KEYS)}"
            sentences.append((f".{key}", f"unknown key; {remedy}"))
        else:
            given[key] = _told(sentences, f".{key}", kind, one)
    if sentences:
        raise Wrong(sentences)
    settings = RouteSettings(**given)
    if wrong := _contradiction(settings):
        raise Wrong([("", f"found {shown(value)}; {wrong}")])
    return settings


def _contradiction(route: RouteSettings) -> str:
    if bool(route.user) != (route.password_file is not None):
        return "user and password_file are named together"
    if route.user and not route.host:
        return "a password is for one host; name it"
    if route.port and not route.host:
        return "a port without a host"
    if not route.host and route.tls not in ("none", "opportunistic", "encrypted"):
        return "without a host there is no certificate to ask for"
    verified = route.tls in ("required", "implicit")
    if verified and not route.certificate_name and _is_address(route.host):
        return "an address has no certificate; add certificate_name"
    if route.user and not verified and route.tls != "none" and not route.host.startswith("127."):
        return 'a password goes to a host that TLS has verified: tls = "required", or "none" if you must'
    return ""


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


ROUTES: Kind[Mapping[str, str | RouteSettings]] = Kind(
    "a table of routes", '"partner.test" = "smtp://10.0.0.5:25"', routes_from
)
