"""DNS look-ups: dnspython's resolver on Twisted's sockets."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver
from dns._asyncbackend import Backend, DatagramSocket, NullTransport, StreamSocket
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.protocol import ClientFactory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from mailserver.interfaces import LookupDelayed
from mailserver.values.address import domain_key

T = TypeVar("T")

TRY_SECONDS = 3.0
"""How long one server is given for one try."""
LOOKUP_SECONDS = 15.0
"""How long a look-up may take, all servers and tries together."""
CACHED_ANSWERS = 20_000
QUESTIONS_AT_ONCE = 100
"""Each holds a socket; a message to a thousand domains must not use up our file descriptors."""
CNAMES = 10
"""How many aliases in a row are followed; dnspython bounds those within one answer itself."""
UDP_OCTETS = 1232
"""The EDNS payload that no path fragments (dnsflagday.net/2020)."""


class NameNotFound(Exception):
    """NXDOMAIN, or a name that can be nobody's."""


class Resolver:
    """Answers from DNS, cached. ``nameservers`` like ``"127.0.0.1:5353"``; empty: the system's."""

    def __init__(
        self,
        reactor: Any,
        nameservers: Sequence[str] = (),
        try_seconds: float = TRY_SECONDS,
        lookup_seconds: float = LOOKUP_SECONDS,
        validating: bool = False,
    ) -> None:
        """``validating`` says that the servers check DNSSEC signatures and that nobody stands between
        them and us: only then is their word on what is authentic believed."""
        self._backend = _TwistedBackend(reactor)
        self._servers = [nameserver_from(text) for text in nameservers]
        self._turns = DeferredSemaphore(QUESTIONS_AT_ONCE)
        self._try_seconds = try_seconds
        self._lookup_seconds = lookup_seconds
        self._validating = validating
        self._resolver: dns.asyncresolver.Resolver | None = None

    async def lookup(self, name: str, record: str) -> dns.resolver.Answer:
        """The records of one type; an answer without any has length 0 (``answer.rrset is None``).

        Raises:
            NameNotFound: the name does not exist.
            LookupDelayed: no server answered, or none gave a usable answer.
        """
        answer, _ = await self.lookup_authentic(name, record)
        return answer

    async def lookup_authentic(self, name: str, record: str) -> tuple[dns.resolver.Answer, bool]:
        """The same, and whether DNSSEC vouches for the answer, or for there being none: the servers
        validate and set AD (RFC 4035 §3.2.3), at every step. Raises as ``lookup``."""
        try:
            asked = dns.name.from_text(domain_key(name) + ".")
        except (dns.exception.DNSException, UnicodeError):
            raise NameNotFound(f"{name} is not a domain name") from None
        kind = dns.rdatatype.from_text(record)
        authentic = self._validating
        met = {asked}
        for _ in range(CNAMES):
            answer = await self._resolve(asked, kind)
            authentic = authentic and bool(answer.response.flags & dns.flags.AD)
            if answer.rrset is not None or answer.canonical_name == asked:
                return answer, authentic
            # The server named an alias and left the rest to us.
            asked = answer.canonical_name
            if asked in met:
                raise NameNotFound(f"{name} is an alias that leads back to itself")
            met.add(asked)
        raise LookupDelayed(f"{name} is an alias of an alias, more than {CNAMES} deep")

    async def _resolve(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> dns.resolver.Answer:
        text = name.to_text(omit_final_dot=True)
        await self._turns.acquire()
        try:
            return await self._ready().resolve(
                name, kind, raise_on_no_answer=False, search=False, backend=self._backend
            )
        except dns.resolver.NXDOMAIN:
            raise NameNotFound(f"{text} does not exist") from None
        except dns.message.ChainTooLong:
            raise NameNotFound(f"{text} is an alias that leads back to itself, or to nothing") from None
        except dns.exception.Timeout:
            raise LookupDelayed(f"no name server answered for {text}") from None
        except dns.resolver.NoResolverConfiguration:
            raise LookupDelayed("no name server is configured on this machine") from None
        except (dns.exception.DNSException, OSError):
            raise LookupDelayed(f"the name servers gave no usable answer for {text}") from None
        finally:
            self._turns.release()

    def _ready(self) -> dns.asyncresolver.Resolver:
        """Made at the first look-up: the machine may have no resolv.conf when the server starts."""
        if self._resolver is None:
            resolver = dns.asyncresolver.Resolver(configure=not self._servers)
            if self._servers:
                resolver.nameservers = self._servers
            resolver.timeout = self._try_seconds
            resolver.lifetime = self._lookup_seconds
            resolver.cache = dns.resolver.LRUCache(CACHED_ANSWERS)
            resolver.use_edns(0, 0, UDP_OCTETS)
            if self._validating:
                # AD in a question asks for AD in the answer, without the signatures (RFC 6840 §5.7).
                resolver.flags = dns.flags.RD | dns.flags.AD
            self._resolver = resolver
        return self._resolver


def nameserver_from(text: str) -> dns.nameserver.Nameserver:
    """A server from ``192.0.2.1``, ``192.0.2.1:5353``, ``2001:db8::1`` or ``[2001:db8::1]:5353``.

    Raises:
        ValueError: none of these.
    """
    host, port = text, "53"
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or port if closed else ""
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    except OSError:
        raise ValueError(f"{text!r} is not a name server; expected an address like 127.0.0.1:5353") from None
    if not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"{text!r} has no valid port; expected 1 to 65535 after the colon")
    return dns.nameserver.Do53Nameserver(host, int(port))


# -- dnspython's sockets, on Twisted ---------------------------------------------------------------


class _TwistedBackend(Backend):
    """What dnspython asks of an event loop; UDP sockets are connected, so that only the server we
    asked is heard and a closed port is known at once."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def name(self) -> str:
        return "twisted"

    def datagram_connection_required(self) -> bool:
        return True

    def get_transport_class(self) -> type[NullTransport]:
        return NullTransport

    async def sleep(self, interval: float) -> None:
        await deferLater(self._reactor, interval)

    async def wait_for(self, awaitable: Awaitable[T], timeout: float | None) -> T:
        async def result() -> T:
            return await awaitable

        return await _in_time(self._reactor, Deferred.fromCoroutine(result()), timeout)

    async def make_socket(
        self,
        af: int,
        socktype: int,
        proto: int = 0,
        source: Any = None,
        destination: Any = None,
        timeout: float | None = None,
        ssl_context: Any = None,
        server_hostname: str | None = None,
    ) -> Any:
        if socktype == socket.SOCK_DGRAM:
            return _Datagrams(self._reactor, af, destination)
        stream = _Stream(self._reactor, af)
        factory = _StreamFactory(stream)
        self._reactor.connectTCP(*destination, factory, timeout=TRY_SECONDS if timeout is None else timeout)
        await stream.opened
        return stream


async def _in_time(reactor: Any, waiting: Deferred[T], timeout: float | None) -> T:
    if timeout is not None:
        waiting.addTimeout(timeout, reactor, onTimeoutCancel=_too_late)
    return await waiting


def _too_late(_: object, seconds: float) -> Failure:
    return Failure(dns.exception.Timeout(timeout=seconds))  # type: ignore[no-untyped-call]


class _Inbox:
    """What has come and not been asked for, or who asked before it came."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._came: deque[Any] = deque()
        self._asking: Deferred[Any] | None = None
        self._failure: Failure | None = None

    def put(self, item: Any) -> None:
        if self._asking is not None:
            asking, self._asking = self._asking, None
            asking.callback(item)
        elif len(self._came) < 64:
            self._came.append(item)

    def fail(self, failure: Failure) -> None:
        self._failure = failure
        if self._asking is not None:
            asking, self._asking = self._asking, None
            asking.errback(failure)

    async def get(self, timeout: float | None) -> Any:
        if self._came:
            return self._came.popleft()
        if self._failure is not None:
            self._failure.raiseException()
        asking: Deferred[Any] = Deferred(self._forget)
        self._asking = asking
        return await _in_time(self._reactor, asking, timeout)

    def _forget(self, _: Deferred[Any]) -> None:
        self._asking = None


@implementer(IReadDescriptor)
class _Datagrams(DatagramSocket):
    """A socket for one question, which hears the server that is asked and nobody else.

    Twisted's ``udp.Port`` would write two lines into the log for each question.
    """

    def __init__(self, reactor: Any, family: int, server: tuple[Any, ...]) -> None:
        DatagramSocket.__init__(self, family, socket.SOCK_DGRAM)
        self._reactor = reactor
        self._inbox = _Inbox(reactor)
        # The address as dnspython will compare it: what a numeric look-up makes of it.
        self._server = socket.getaddrinfo(server[0], server[1], flags=socket.AI_NUMERICHOST)[0][4]
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        try:
            self._socket.connect(self._server)
        except OSError:
            self._socket.close()
            raise
        reactor.addReader(self)

    def fileno(self) -> int:
        return self._socket.fileno()

    def logPrefix(self) -> str:
        return "DNS"

    def doRead(self) -> None:
        try:
            self._inbox.put((self._socket.recv(65535), self._server))
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._inbox.fail(Failure(error))

    def connectionLost(self, reason: Failure) -> None:
        self._inbox.fail(Failure(ConnectionRefusedError("the name server's port is closed")))

    async def sendto(self, what: bytes, destination: Any, timeout: float | None) -> int:
        return self._socket.send(what)

    async def recvfrom(self, size: int, timeout: float | None) -> Any:
        return await self._inbox.get(timeout)

    async def close(self) -> None:
        self._reactor.removeReader(self)
        self._socket.close()


class _Stream(Protocol, StreamSocket):
    """One look-up over TCP."""

    transport: Any

    def __init__(self, reactor: Any, family: int) -> None:
        StreamSocket.__init__(self, family, socket.SOCK_STREAM)
        self._inbox = _Inbox(reactor)
        self._rest = b""
        self.opened: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.opened.callback(None)

    def dataReceived(self, data: bytes) -> None:
        self._inbox.put(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._inbox.put(b"")

    async def sendall(self, what: bytes, timeout: float | None) -> None:
        self.transport.write(what)

    async def recv(self, size: int, timeout: float | None) -> bytes:
        if not self._rest:
            self._rest = await self._inbox.get(timeout)
        taken, self._rest = self._rest[:size], self._rest[size:]
        return bytes(taken)

    async def close(self) -> None:
        self.transport.abortConnection()


class _StreamFactory(ClientFactory):
    noisy = False

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def buildProtocol(self, addr: Any) -> _Stream:
        return self._stream

    def clientConnectionFailed(self, connector: Any, reason: Failure) -> None:
        self._stream.opened.errback(reason)
