"""TLS that writes straight to its socket: at once, in order, whoever reads slowly."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.ssl import ContextFactory
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from mailserver.assembly.straight_tls import StraightTLSFactory, start_tls
from mailserver.certificates import ensure_self_signed
from mailserver.durable import Disk
from mailserver.sockets import TURN_OCTETS, direct_writer

MUCH = os.urandom(64 * 1024) * 64


class Context(ContextFactory):
    def __init__(self, certificate: Path, key: Path) -> None:
        self._context = SSL.Context(SSL.TLS_SERVER_METHOD)
        self._context.use_certificate_file(str(certificate))
        self._context.use_privatekey_file(str(key))

    def getContext(self) -> SSL.Context:
        return self._context


@implementer(IHandshakeListener)
class Answers(Protocol):
    """Says what it hears, and looks whether anything of it was left for later."""

    transport: Any
    write: Callable[[bytes], object]
    context: Context | None = None

    def connectionMade(self) -> None:
        self.left: list[object] = []
        self.write = direct_writer(self.transport)

    def handshakeCompleted(self) -> None:
        self.write(b"welcome\n")

    def dataReceived(self, data: bytes) -> None:
        if data == b"STARTTLS\n":
            self.write(b"go\n")
            self.write = start_tls(self.transport, self.context)
            return
        self.write(MUCH if data == b"much\n" else data)
        lower = self.transport if hasattr(self.transport, "dataBuffer") else self.transport.transport
        self.left.append((bytes(lower.dataBuffer), list(lower._tempDataBuffer)))
        if data == b"bye\n":
            self.transport.loseConnection()

    def connectionLost(self, reason: Any = None) -> None:
        self.factory.gone.callback(self)  # type: ignore[attr-defined, union-attr]


def talk(port: int, begins: bytes) -> tuple[bytes, bytes]:
    """A client of another library: what it was told, and what came of a line of which it reads slowly."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), timeout=30) as plain:
        if begins:
            plain.sendall(begins)
            assert plain.recv(100) == b"go\n"
        with context.wrap_socket(plain) as client:
            told = client.recv(100)
            client.sendall(b"hello\n")
            told += client.recv(100)
            client.sendall(b"much\n")
            much = b""
            while len(much) < len(MUCH):
                much += client.recv(10_000)
            client.sendall(b"bye\n")
            while piece := client.recv(100):  # raises unless the server says that this is the end
                told += piece
            return told, much


class StraightTests(TestCase):
    def setUp(self) -> None:
        place = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, place)
        certificate, key = place / "cert.pem", place / "key.pem"
        ensure_self_signed(Disk(), certificate, key, ["mx.example.test"])
        self.context = Context(certificate, key)
        self.factory: Any = Factory.forProtocol(Answers)
        self.factory.noisy = False
        self.factory.gone = Deferred()

    async def _holds(self, factory: Any, begins: bytes) -> None:
        port: Any = reactor.listenTCP(0, factory, interface="127.0.0.1")  # type: ignore[attr-defined]
        try:
            told, much = await deferToThread(talk, port.getHost().port, begins)
            server = await self.factory.gone
        finally:
            await port.stopListening()
        assert told == b"welcome\nhello\nbye\n"
        assert much == MUCH
        assert server.left[0] == (b"", [])  # a reply that the kernel takes waits for no turn
        # However fast the client reads, the rest of much is for the reactor's turns to come.
        buffer, gathered = server.left[1]
        assert len(buffer) + sum(map(len, gathered)) >= len(MUCH) - TURN_OCTETS

    async def test_tls_from_the_first_octet(self) -> None:
        await self._holds(StraightTLSFactory(self.context, False, self.factory), b"")

    async def test_starttls(self) -> None:
        self.patch(Answers, "context", self.context)
        await self._holds(self.factory, b"STARTTLS\n")

    def test_a_transport_without_a_socket_keeps_its_own_write(self) -> None:
        class Transport:
            def getHandle(self) -> object:
                return object()

            def startTLS(self, context: object) -> None:
                self.protocol = context

            def write(self, octets: bytes) -> None: ...

        transport = Transport()
        assert start_tls(transport, self.context) == transport.write
