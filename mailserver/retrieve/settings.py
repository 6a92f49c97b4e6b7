"""What POP3 sessions are told by who makes them, and how long they wait for what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from twisted.internet.interfaces import IOpenSSLContextFactory, IReactorTime

from mailserver.connections import Connections
from mailserver.interfaces import IAuthenticator
from mailserver.retrieve.history import Visit
from mailserver.retrieve.login_times import LoginTimes
from mailserver.retrieve.occupants import Occupants
from mailserver.threads import Workers
from mailserver.wire.sasl_mechanisms import PASSWORDS

HANDSHAKE_SECONDS = 30.0
"""How long a TLS handshake may take."""

LOGIN_SECONDS = 180.0
"""How long a connection may live before somebody has logged in."""

PRESSED_LOGIN_SECONDS = 20.0
"""The same while half of the server's connections are in use."""

IDLE_SECONDS = 600.0
"""How long a silent client is waited for after log-in (RFC 1939 §3: at least ten minutes)."""

LAST_SECONDS = 30.0
"""How long the last response may take to leave."""

MOST_PENDING = 16 * 1024
"""Octets that wait behind an unanswered command before we stop reading."""

DIRECT_OCTETS = 32 * 1024
"""Up to here a message that is in memory is read in the reactor's thread; 0 sends every read to a thread.

A file of 4 KiB costs about 10 microseconds there, a thread's round trip 100 to 200.
"""

READ_IN_THREADS = 16
"""After a message that was not in memory, so many are read in threads without a look.

Opening a file may wait for the disk too, which nothing tells beforehand; who reads old mail, or from NFS,
makes everybody wait for one file in so many at most.
"""


def _start_tls(transport: Any, context: IOpenSSLContextFactory) -> None:
    transport.startTLS(context)


@dataclass(frozen=True, slots=True)
class Pop3Settings:
    """What the sessions of one listener share.

    ``tls`` makes the contexts for STLS; ``implicit_tls`` says that the transport begins with a
    handshake, and then ``tls`` is not used.  ``authenticator`` gives an ``IMaildropOwner`` by the
    ``mechanisms``, by name and password, or by ``apop``; ``workers`` run what blocks.  ``connections``
    counts those of all listeners.  ``occupants`` are shared by them too; ``login_times`` where log-ins
    have to wait for each other; ``visited`` hears of sessions that fetched or deleted something.
    ``expire``: days after which messages go, 0 for never; ``proxies`` may tell by XCLIENT whom they
    speak for.  ``start_tls`` begins TLS on a transport.
    """

    hostname: str
    authenticator: IAuthenticator
    workers: Workers
    clock: IReactorTime
    tls: IOpenSSLContextFactory | None = None
    implicit_tls: bool = False
    allow_cleartext: bool = False
    mechanisms: tuple[str, ...] = PASSWORDS
    direct_octets: int = DIRECT_OCTETS
    connections: Connections | None = None
    occupants: Occupants = field(default_factory=Occupants)
    login_times: LoginTimes | None = None
    visited: Callable[[Visit], object] | None = None
    expire: int = 0
    apop: bool = False
    proxies: Sequence[IPv4Network | IPv6Network] = ()
    start_tls: Callable[[Any, IOpenSSLContextFactory], object] = _start_tls
