"""TLS whose replies leave in the reactor's turn that made them, and whose memory is free when it ends."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.internet.protocol import connectionDone
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from mailserver.sockets import StraightTransport

# Twisted gathers small writes until the next turn, encrypts them there, and asks epoll for a third turn to
# send them.  Our sessions gather by themselves: they write once for all that they have to say in a turn.


class _QuietEnd(TLSMemoryBIOProtocol):
    """A connection that asks OpenSSL nothing more when the other side has gone.

    Twisted asks, and keeps the failure in a ring with the stack that it was made on, and so the connection
    with OpenSSL's memory, which Python's collector does not count: with few new objects it came for
    hundreds of dead connections at a time. What was received has been read by then.
    """

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lostTLSConnection = True
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
        self._producer = None  # the session, which knows its transport


class _StartedTLS(_QuietEnd, BufferingTLSTransport):
    """The same behind STARTTLS or STLS, where the transport knows this object."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.transport = None


class _StraightTLS(_QuietEnd):
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


def begin_tls(transport: Any, context: IOpenSSLContextFactory) -> object:
    """Begin TLS as the server; what stands between the session and its transport from now on."""
    transport.startTLS(context)
    tls: object = transport.protocol
    if type(tls) is BufferingTLSTransport:
        tls.__class__ = _StartedTLS  # Twisted makes it by itself, and asks nobody of which class
    return tls


def start_tls(transport: Any, context: IOpenSSLContextFactory) -> Callable[[bytes], object]:
    """Begin TLS as the server, on a connection where nothing waits to be sent; what writes from now on."""
    handle = transport.getHandle()
    tls: Any = begin_tls(transport, context)
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
