"""The settings: one frozen class for each table of ``mailserver.toml``, with every default."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import attrs

from mailserver.config.addresses import DIRECTORY, Addresses, Delivery, Files, Lists
from mailserver.config.kinds import (
    BOOLEAN,
    CHECKER,
    DOMAIN,
    DURATION,
    ENDPOINT,
    FORMAT,
    LANGUAGE,
    LMTP_ENDPOINT,
    LOST_TLS,
    NAME,
    NAMESERVER,
    NETWORK,
    OBJECT,
    TEXT_PATH,
    Kind,
    Network,
    each,
    whole,
)
from mailserver.config.limits import Limits, Policy, Proxy
from mailserver.config.pairs import PAIRS, Pair
from mailserver.config.pop3 import Pop3
from mailserver.config.quotas import COUNT, QUOTA, QUOTAS, UNDELETE, WHEN_FULL
from mailserver.config.routes import ROUTES, RouteSettings
from mailserver.config.submission import Submission
from mailserver.config.trace import Trace

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
    lmtp: Annotated[str, LMTP_ENDPOINT] = ""


@attrs.frozen(kw_only=True)
class Tls:
    """An administrator's own certificate (with its chain) and key, in PEM; ``also``: further ones, for
    clients that ask for a host of theirs (SNI)."""

    certificate: FilePath
    key: FilePath
    also: Annotated[tuple[Pair, ...], PAIRS] = ()


@attrs.frozen(kw_only=True)
class Login:
    """``allow_cleartext``: may a password cross the line without TLS? ``oauth`` names an
    ``ITokenChecker``, ``""`` for none; ``cram_md5`` offers it, for passwords set from then on;
    ``checkers`` are twisted.cred's, as ``--auth`` describes them, and asked instead of the accounts."""

    allow_cleartext: Boolean = False
    oauth: Annotated[str, OBJECT] = ""
    cram_md5: Boolean = False
    checkers: Annotated[tuple[str, ...], each(CHECKER)] = ()


@attrs.frozen(kw_only=True)
class Store:
    """Where mailboxes are, and the format of those whose account names none.

    ``quota`` octets and ``quota_messages`` for each user, 0 for no limit; ``quotas``: octets for one
    address, or for a domain as ``@example.test``; ``when_full``: is mail delayed or returned at once?
    What POP3 deletes can be brought back for ``undelete_for`` seconds, 0 for not at all."""

    path: FilePath = Path("maildirs")
    format: Annotated[str, FORMAT] = "maildir"
    quota: Annotated[int, QUOTA] = 0
    quota_messages: Annotated[int, COUNT] = 0
    quotas: Annotated[Mapping[str, int], QUOTAS] = attrs.field(factory=dict)
    when_full: Annotated[str, WHEN_FULL] = "delay"
    undelete_for: Annotated[float, UNDELETE] = 7 * 86400.0


_RETRY = (300.0, 600.0, 1200.0, 2400.0, 4800.0, 9600.0, 14400.0)


@attrs.frozen(kw_only=True)
class Relay:
    """How mail leaves. ``retry``, ``warn_after`` and ``give_up_after`` in seconds; ``nameservers`` as
    ``address`` or ``address:port``, none for the system's; ``routes``: domain, sender or ``*`` -> URL or
    table; ``concurrency`` sessions at one destination and ``messages_per_minute`` to it (0: no limit).

    ``dnssec`` says that the name servers, which must be on loopback, validate: it turns DANE on.
    ``mta_sts`` obeys policies; ``lost_tls`` tells what becomes of mail to a host that did TLS before
    (``warn``, ``delay``, ``ignore``); ``tls_reports`` sends reports to domains that ask; ``authorities``
    is a PEM file of CAs to trust instead of the system's.

    ``etrn``: the domains whose waiting mail anybody may have sent now by ETRN."""

    port: Annotated[int, Kind("a port from 1 to 65535", "25", whole(1, 65535))] = 25
    nameservers: Annotated[tuple[str, ...], each(NAMESERVER)] = ()
    retry: Annotated[tuple[float, ...], each(DURATION, at_least=1)] = _RETRY
    warn_after: Duration = 4 * 3600.0
    give_up_after: Duration = 5 * 86400.0
    trusted_networks: Annotated[tuple[Network, ...], each(NETWORK)] = ()
    allow_loopback: Boolean = False
    dnssec: Boolean = False
    mta_sts: Boolean = True
    lost_tls: Annotated[str, LOST_TLS] = "warn"
    tls_reports: Boolean = True
    authorities: Annotated[Path | None, TEXT_PATH] = None
    routes: Annotated[Mapping[str, str | RouteSettings], ROUTES] = attrs.field(factory=dict)
    etrn: Annotated[tuple[str, ...], each(DOMAIN)] = ()
    concurrency: Annotated[int, Kind("a number of sessions", "20", whole(1, 1000))] = 20
    messages_per_minute: Annotated[
        int, Kind("a number of messages, 0 for no limit", "60", whole(0, 1_000_000))
    ] = 0


@attrs.frozen(kw_only=True)
class Settings:
    """Everything that an administrator decides; each field is a key or a table of ``mailserver.toml``.

    ``hostname`` is in A-labels; ``domains`` are as they were written, compared by
    ``values.address.domain_key``, by default the host's own name; ``language`` is what we write to people
    who have chosen none; ``directory`` is what knows the accounts; ``tls`` is ``None`` when the server makes
    its own certificate.  ``load`` makes every path absolute.
    """

    hostname: Annotated[str, NAME] = attrs.field(factory=lambda: socket.getfqdn())
    domains: Annotated[tuple[str, ...], each(DOMAIN, at_least=1)] = attrs.field()
    state: FilePath = Path("state")
    language: Annotated[str, LANGUAGE] = "en"
    workers: Annotated[int, Kind("a number of processes, 0 for one per core", "1", whole(0, 256))] = 1
    directory: Annotated[str, DIRECTORY] = "sqlite"
    listen: Listen = attrs.field(factory=Listen)
    tls: Tls | None = None
    login: Login = attrs.field(factory=Login)
    store: Store = attrs.field(factory=Store)
    relay: Relay = attrs.field(factory=Relay)
    limits: Limits = attrs.field(factory=Limits)
    pop3: Pop3 = attrs.field(factory=Pop3)
    submission: Submission = attrs.field(factory=Submission)
    policy: Policy = attrs.field(factory=Policy)
    proxy: Proxy = attrs.field(factory=Proxy)
    delivery: Delivery = attrs.field(factory=Delivery)
    addresses: Addresses = attrs.field(factory=Addresses)
    lists: Lists = attrs.field(factory=Lists)
    files: Files = attrs.field(factory=Files)
    trace: Trace = attrs.field(factory=Trace)

    @domains.default
    def _own_name(self) -> tuple[str, ...]:
        return (self.hostname,)
