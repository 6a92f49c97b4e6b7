"""Scripted SMTP servers in process: each line of a script answers one command."""

from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineReceiver

EHLO = "250-peer.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n250 SIZE 60000000"
DROP = "drop"
SILENT = "silent"


class PeerSession(LineReceiver):
    """Answers by the first word of a command; text between DATA and the dot is kept as it came."""

    MAX_LENGTH = 100_000
    in_data = False
    dropping = False

    def connectionMade(self) -> None:
        self.peer: Peer = self.factory.peer
        self.peer.connections += 1
        self.peer.open.append(self)
        self.text: list[bytes] = []
        self.answer("CONNECT", "")

    def connectionLost(self, reason: Any = None) -> None:
        self.peer.open.remove(self)

    def answer(self, verb: str, line: str) -> None:
        reply = self.peer.replies.get(verb, "250 2.0.0 ok")
        if callable(reply):
            reply = reply(line)
        if self.dropping:
            return
        if reply == DROP:
            # What was said before has to arrive first.
            self.dropping = True
            reactor.callLater(0.02, self.transport.abortConnection)
        elif reply != SILENT:
            self.transport.write(reply.encode() + b"\r\n")
            if reply.startswith("354"):
                self.in_data = True
        if verb == "STARTTLS" and self.peer.tls is not None:
            self.transport.startTLS(self.peer.tls)
        if verb == "QUIT":
            self.transport.loseConnection()

    def lineReceived(self, line: bytes) -> None:
        if not self.in_data:
            text = line.decode(errors="replace")  # a ClientHello, where nobody does TLS
            self.peer.commands.append(text)
            self.answer(text.partition(" ")[0].upper(), text)
        elif line != b".":
            self.text.append(line)
        else:
            self.in_data = False
            self.peer.messages.append(b"\r\n".join([*self.text, b""]))
            self.text = []
            self.answer(".", "")


class Peer:
    """A server on loopback. ``replies`` maps a verb, ``CONNECT`` or ``.`` to a reply, a function of
    the command line, ``DROP`` or ``SILENT``."""

    def __init__(self, tls: Any = None, **replies: str | Callable[[str], str]) -> None:
        named = {"dot": ".", "connect": "CONNECT"}
        self.tls = tls
        self.replies: dict[str, Any] = {
            "CONNECT": "220 peer.test ESMTP",
            "EHLO": EHLO,
            "DATA": "354 go",
            "QUIT": "221 bye",
            **{named.get(verb, verb): reply for verb, reply in replies.items()},
        }
        self.commands: list[str] = []
        self.messages: list[bytes] = []
        self.open: list[PeerSession] = []
        self.connections = 0
        self.protocol: Any = PeerSession

    def start(self, port: int = 0, interface: str = "127.0.0.1") -> int:
        factory = Factory.forProtocol(self.protocol)
        factory.peer = self
        factory.noisy = False
        self.listening = reactor.listenTCP(port, factory, interface=interface)
        number: int = self.listening.getHost().port
        return number

    async def stop(self) -> None:
        await maybeDeferred(self.listening.stopListening)
        for session in list(self.open):
            session.transport.abortConnection()

    def said(self, verb: str) -> list[str]:
        return [c for c in self.commands if c.upper().startswith(verb)]
