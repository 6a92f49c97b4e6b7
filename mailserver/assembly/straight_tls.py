"""TLS whose replies leave in the reactor's turn that made them, and not in the second one after it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol

from mailserver.sockets import StraightTransport

# Twisted gathers small writes until the next turn, encrypts them there, and asks epoll for a third turn to
# send them.  Our sessions gather by themselves: they write once for all that they have to say in a turn.


class _StraightTLS(TLSMemoryBIOProtocol):
    """The side of a server: nothing is written before the client has spoken."""

    def makeConnection(self, transport: Any) -> None:
        super().makeConnection(transport)  # type: ignore[no-untyped-call]
        self.transport = self._straight = _straight(transport)

    def dataReceived(self, data: bytes) -> None:
        if isinstance(self._straight, StraightTransport):
            self._straight.begin_turn()
        super().dataReceived(data)  # type: ignore[no-untyped-call]


class StraightTLSFactory(TLSMemoryBIOFactory):
    """TLS from the first byte on, for the server's side."""

    protocol = _StraightTLS


def start_tls(transport: Any, context: IOpenSSLContextFactory) -> Callable[[bytes], object]:
    """Begin TLS as the server, on a connection where nothing waits to be sent; what writes from now on."""
    handle = transport.getHandle()
    transport.startTLS(context)
    tls: Any = transport.protocol
    if not isinstance(handle, socket.socket) or not isinstance(tls, TLSMemoryBIOProtocol):
        write: Callable[[bytes], object] = transport.write
        return write
    straight: Any = StraightTransport(tls.transport, handle)
    tls.transport = straight
    return partial(_write, tls)


def _write(tls: Any, octets: bytes) -> None:
    tls.transport.begin_turn()  # a session writes once in each
    TLSMemoryBIOProtocol.write(tls, octets)


def _straight(transport: Any) -> Any:
    handle: object = transport.getHandle() if hasattr(transport, "getHandle") else None
    return StraightTransport(transport, handle) if isinstance(handle, socket.socket) else transport
