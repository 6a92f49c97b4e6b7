"""The settings: one frozen class for each table of ``mailserver.toml``, with every default."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import attrs

from mailserver.config.kinds import (
    BOOLEAN,
    DOMAIN,
    DURATION,
    ENDPOINT,
    FORMAT,
    NAME,
    NAMESERVER,
    NETWORK,
    OBJECT,
    ROUTES,
    TEXT_PATH,
    Kind,
    Network,
    each,
    whole,
)
from mailserver.config.limits import Limits, Policy, Proxy

Duration = Annotated[float, DURATION]
"""Seconds."""
Endpoint = Annotated[str, ENDPOINT]
"""A Twisted endpoint description; "" is off."""
FilePath = Annotated[Path, TEXT_PATH]
Boolean = Annotated[bool, BOOLEAN]


@attrs.frozen(kw_only=True)
class Listen:
    """Where to listen, one Twisted endpoint description for each service; "" turns one off."""

    smtp: Endpoint = "tcp:25"
    submission: Endpoint = "tcp:587"
    submissions: Endpoint = "tcp:465"
    pop3: Endpoint = "tcp:110"
    pop3s: Endpoint = "tcp:995"
    lmtp: Endpoint = ""


@attrs.frozen(kw_only=True)
class Tls:
    """An administrator's own certificate (with its chain) and key, in PEM."""

    certificate: FilePath
    key: FilePath


@attrs.frozen(kw_only=True)
class Login:
    """``allow_cleartext``: may a password cross the line without TLS? ``oauth`` names an
    ``ITokenChecker``, ``""`` for none; ``cram_md5`` offers it, for passwords set from then on."""

    allow_cleartext: Boolean = False
    oauth: Annotated[str, OBJECT] = ""
    cram_md5: Boolean = False


@attrs.frozen(kw_only=True)
class Store:
    """Where mailboxes are, and the format of those whose account names none."""

    path: FilePath = Path("maildirs")
    format: Annotated[str, FORMAT] = "maildir"


_RETRY = (300.0, 600.0, 1200.0, 2400.0, 4800.0, 9600.0, 14400.0)


@attrs.frozen(kw_only=True)
class Relay:
    """How mail leaves. ``retry``, ``warn_after`` and ``give_up_after`` in seconds; ``nameservers`` as
    ``address`` or ``address:port``, none for the system's; ``routes``: domain or ``*`` -> URL."""

    port: Annotated[int, Kind("a port from 1 to 65535", "25", whole(1, 65535))] = 25
    nameservers: Annotated[tuple[str, ...], each(NAMESERVER)] = ()
    retry: Annotated[tuple[float, ...], each(DURATION, at_least=1)] = _RETRY
    warn_after: Duration = 4 * 3600.0
    give_up_after: Duration = 5 * 86400.0
    trusted_networks: Annotated[tuple[Network, ...], each(NETWORK)] = ()
    allow_loopback: Boolean = False
    routes: Annotated[Mapping[str, str], ROUTES] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Settings:
    """Everything that an administrator decides; each field is a key or a table of ``mailserver.toml``.

    ``hostname`` is in A-labels; ``domains`` are as they were written, compared by
    ``values.address.domain_key``, by default the host's own name; ``tls`` is ``None`` when the server makes
    its own certificate.  ``load`` makes every path absolute.
    """

    hostname: Annotated[str, NAME] = attrs.field(factory=lambda: socket.getfqdn())
    domains: Annotated[tuple[str, ...], each(DOMAIN, at_least=1)] = attrs.field()
    state: FilePath = Path("state")
    workers: Annotated[int, Kind("a number of processes, 0 for one per core", "1", whole(0, 256))] = 1
    listen: Listen = attrs.field(factory=Listen)
    tls: Tls | None = None
    login: Login = attrs.field(factory=Login)
    store: Store = attrs.field(factory=Store)
    relay: Relay = attrs.field(factory=Relay)
    limits: Limits = attrs.field(factory=Limits)
    policy: Policy = attrs.field(factory=Policy)
    proxy: Proxy = attrs.field(factory=Proxy)

    @domains.default
    def _own_name(self) -> tuple[str, ...]:
        return (self.hostname,)
