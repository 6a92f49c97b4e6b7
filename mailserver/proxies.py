"""Connections from load balancers: their PROXY header is read before the session knows of them."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocolFactory, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from mailserver import maillog
from mailserver.connections import is_in
from mailserver.values.clients import plain_host
from mailserver.wire.proxy import NotProxied, parse

HEADER_SECONDS = 10.0
"""How long a proxy may take for its header."""


class ProxiedFactory(Factory):
    """Stands before a factory.

    From ``networks`` a header must come (guessing whether it does would let a client forge one);
    for all others nothing changes, so a header of theirs is no command that we know.
    """

    noisy = False

    def __init__(
        self, behind: Any, networks: Sequence[IPv4Network | IPv6Network], clock: IReactorTime
    ) -> None:
        self.behind: IProtocolFactory = behind
        self.clock = clock
        self._networks = networks

    def buildProtocol(self, addr: IAddress | None) -> Any:
        if addr is not None and is_in(plain_host(getattr(addr, "host", "")), self._networks):
            return HeaderReader(self, addr)
        return self.behind.buildProtocol(addr)  # type: ignore[arg-type]


class HeaderReader(Protocol):
    """Reads one header, then gives its transport to the real protocol and is gone."""

    transport: Any

    def __init__(self, factory: ProxiedFactory, proxy: Any) -> None:
        self._factory = factory
        self._proxy = proxy
        self._octets = b""
        self._timer: IDelayedCall | None = None

    def connectionMade(self) -> None:
        self._timer = self._factory.clock.callLater(HEADER_SECONDS, self._refuse, "no header in time")

    def dataReceived(self, data: bytes) -> None:
        if self._timer is None:
            return  # refused
        self._octets += data
        try:
            header = parse(self._octets)
        except NotProxied as error:
            self._refuse(str(error))
            return
        if header is None:
            return
        self._stop_timer()
        kind = IPv6Address if ":" in header.host else IPv4Address
        client = kind("TCP", header.host, header.port) if header.host else self._proxy
        protocol = self._factory.behind.buildProtocol(client)
        if protocol is None:
            self.transport.abortConnection()
            return
        rest, self._octets = self._octets[header.length :], b""
        self.transport.protocol = protocol
        protocol.makeConnection(self.transport)
        if rest:
            protocol.dataReceived(rest)

    def _refuse(self, why: str) -> None:
        self._stop_timer()
        maillog.turned_away("proxy", plain_host(self._proxy.host), why)
        self.transport.abortConnection()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_timer()
