"""A transport in memory that can start TLS, lose its connection and hold back what it wrote."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure


class Handle:
    """As much of an OpenSSL connection as sessions ask for."""

    def get_protocol_version_name(self) -> str:
        return "TLSv1.3"

    def get_cipher_name(self) -> str:
        return "TLS_AES_256_GCM_SHA384"


class Wire(StringTransport):
    """``StringTransport`` with TLS in name, and a client that may stop reading.

    ``is_read`` false: what is written stays in a buffer, and the producer is paused when there are
    more than 64 KiB in it, as Twisted's transports do.
    """

    BUFFER = 64 * 1024

    def __init__(self, protocol: Any = None) -> None:
        super().__init__()
        self.protocol = protocol
        self.tls: object = None
        self.is_closed = False
        self.was_aborted = False
        self.is_read = True
        self.unread: list[bytes] = []
        self.most_unread = 0

    def startTLS(self, context: object, normal: bool = True) -> None:
        self.tls = context

    def getHandle(self) -> Handle:
        return Handle()

    def write(self, data: bytes) -> None:
        if self.is_closed:
            return
        if self.is_read:
            super().write(data)
            return
        self.unread.append(data)
        octets = sum(map(len, self.unread))
        self.most_unread = max(self.most_unread, octets)
        if octets > self.BUFFER and self.producer is not None:
            self.producer.pauseProducing()

    def read_all(self) -> bytes:
        """The client reads what is in the buffer; room is made for more."""
        octets, self.unread = b"".join(self.unread), []
        if self.producer is not None:
            self.producer.resumeProducing()
        return octets

    def loseConnection(self) -> None:
        assert self.producer is None, "a registered producer keeps a connection open"
        self.lose(ConnectionDone())

    def abortConnection(self) -> None:
        self.was_aborted = True
        self.lose(ConnectionAborted())

    def lose(self, reason: Exception) -> None:
        """The connection is gone; the protocol hears of it once."""
        if not self.is_closed:
            self.is_closed = True
            self.protocol.connectionLost(Failure(reason))
