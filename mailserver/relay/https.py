"""HTTPS towards strangers: a policy fetched, a report posted; bounded in time and octets."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from OpenSSL import SSL
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent, ResponseDone, ResponseFailed
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from mailserver.interfaces import LookupDelayed
from mailserver.relay.forbidden_addresses import refusal
from mailserver.relay.resolver import NameNotFound, Resolver
from mailserver.relay.tls import VerifiedTLS

FETCH_SECONDS = 30.0
"""How long one exchange may take, look-up and handshake included; RFC 8461 §3.3 suggests a minute, and a
message waits for this one."""
CONNECT_SECONDS = 10.0
MOST_OCTETS = 64 * 1024
"""Octets of a policy that are read (RFC 8461 §3.3 asks for a limit)."""
HTTPS_PORT = 443
_USER_AGENT = b"mailserver"


class FetchFailed(Exception):
    """Nothing usable came; ``kind`` is a result type of RFC 8460 §4.3."""

    def __init__(self, reason: str, kind: str = "sts-policy-fetch-error") -> None:
        super().__init__(reason)
        self.kind = kind


class HTTPS:
    """Requests whose certificates are verified and whose redirects are not followed."""

    def __init__(
        self,
        reactor: Any,
        resolver: Resolver,
        authorities: Path | None = None,
        allow_loopback: bool = False,
        port: int = HTTPS_PORT,
    ) -> None:
        """``authorities`` is a PEM file of the CAs to trust, ``None`` for the system's; hosts on
        loopback are not asked unless ``allow_loopback``; ``port`` is where servers listen whose URL
        names none."""
        self._reactor = reactor
        self._resolver = resolver
        self._tls = VerifiedTLS(authorities)
        self._allow_loopback = allow_loopback
        self._port = port

    def fetch_policy(self, domain: str) -> Deferred[bytes]:
        """The text of a domain's MTA-STS policy (RFC 8461 §3.3). Fails with ``FetchFailed``."""
        return Deferred.fromCoroutine(self._fetch_policy(domain))

    def post(self, url: str, content_type: str, body: bytes) -> Deferred[None]:
        """Deliver ``body``; done when the server says 2xx. Fails with ``FetchFailed``."""
        return Deferred.fromCoroutine(self._post(url, content_type, body))

    async def _fetch_policy(self, domain: str) -> bytes:
        url = f"https://mta-sts.{domain}/.well-known/mta-sts.txt"
        response, text = await self._request(b"GET", url, MOST_OCTETS)
        if response.code != 200:
            # A redirect too: it would give the policy into other hands (RFC 8461 §3.3).
            raise FetchFailed(f"{url} answered {response.code}")
        kinds = response.headers.getRawHeaders(b"content-type") or [b""]
        if kinds[0].partition(b";")[0].strip().lower() != b"text/plain":
            raise FetchFailed(f"{url} is not text/plain", "sts-policy-invalid")
        return text

    async def _post(self, url: str, content_type: str, body: bytes) -> None:
        response, _ = await self._request(b"POST", url, 0, content_type, body)
        if not 200 <= response.code < 300:
            raise FetchFailed(f"{url} answered {response.code}")

    async def _request(
        self, method: bytes, url: str, most: int, content_type: str = "", body: bytes | None = None
    ) -> tuple[IResponse, bytes]:
        work = Deferred.fromCoroutine(self._exchange(method, url, most, content_type, body))
        try:
            return await work.addTimeout(FETCH_SECONDS, self._reactor)
        except TimeoutError:
            raise _told(url, [Failure()]) from None
        except FetchFailed:
            raise
        except ResponseFailed as error:
            raise _told(url, error.reasons) from None
        except Exception as error:
            # Whatever else Agent, OpenSSL and the sockets know is the stranger's fault.
            raise _told(url, [Failure(error)]) from None

    async def _exchange(
        self, method: bytes, url: str, most: int, content_type: str, body: bytes | None
    ) -> tuple[IResponse, bytes]:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.scheme != "https" or not host:
            raise FetchFailed(f"{url} is not an https URL")
        address = await self._address(host)
        port = parts.port or self._port
        agent = Agent.usingEndpointFactory(
            self._reactor, _OneHost(self._reactor, self._tls.to(host), address, port)
        )
        headers = Headers({b"User-Agent": [_USER_AGENT]})
        if content_type:
            headers.addRawHeader(b"Content-Type", content_type.encode())
        response = await agent.request(method, url.encode(), headers, None if body is None else _Body(body))
        reader = _Reader(most)
        response.deliverBody(reader)
        return response, await reader.done

    async def _address(self, host: str) -> str:
        problem = f"{host} has no address"
        for record in ("A", "AAAA"):
            try:
                answer = await self._resolver.lookup(host, record)
            except (NameNotFound, LookupDelayed) as error:
                problem = str(error)
                continue
            for found in answer.rrset or ():
                address = ip_address(found.address)
                refused = refusal(address, self._allow_loopback)
                if not refused:
                    return str(address)
                problem = f"{host} is at {address}, which is {refused}"
        raise FetchFailed(problem)


def _told(url: str, failures: Sequence[Failure]) -> FetchFailed:
    """What went wrong, in words that fit a log line."""
    for failure in failures:
        error = failure.value
        if isinstance(error, FetchFailed):
            return error
        if isinstance(error, TimeoutError | CancelledError):
            return FetchFailed(f"{url} did not answer within {FETCH_SECONDS:.0f} s")
        if isinstance(error, SSL.Error):
            return FetchFailed(
                f"{url} has no valid certificate ({_first_words(error)})", "sts-webpki-invalid"
            )
    error = failures[0].value if failures else None
    return FetchFailed(f"{url} cannot be had ({_first_words(error)})")


def _first_words(error: object) -> str:
    arguments = getattr(error, "args", ())
    if isinstance(error, SSL.Error) and arguments and isinstance(arguments[0], list) and arguments[0]:
        return str(arguments[0][0][-1])
    return f"{type(error).__name__}: {error}"[:120]


@implementer(IAgentEndpointFactory)
class _OneHost:
    """An endpoint at the address that our own resolver gave."""

    def __init__(self, reactor: Any, tls: IOpenSSLClientConnectionCreator, address: str, port: int) -> None:
        self._reactor, self._tls, self._address, self._port = reactor, tls, address, port

    def endpointForURI(self, uri: object) -> IStreamClientEndpoint:
        kind = TCP6ClientEndpoint if ":" in self._address else TCP4ClientEndpoint
        plain = kind(self._reactor, self._address, self._port, CONNECT_SECONDS)
        return wrapClientTLS(self._tls, plain)


class _Reader(Protocol):
    """A response's body, at most so many octets; ``most`` 0 throws it away."""

    transport: Any

    def __init__(self, most: int) -> None:
        self.done: Deferred[bytes] = Deferred(self._cancelled)
        self._most = most
        self._pieces: list[bytes] = []
        self._size = 0

    def dataReceived(self, data: bytes) -> None:
        self._size += len(data)
        if not self._most:
            self._finish(b"")
        elif self._size > self._most:
            self._fail(FetchFailed(f"the answer is longer than {self._most} octets", "sts-policy-invalid"))
        else:
            self._pieces.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.done.called:
            return
        if reason.check(ResponseDone):
            self._finish(b"".join(self._pieces))
        else:
            self._fail(FetchFailed("the answer was cut short"))

    def _finish(self, octets: bytes) -> None:
        self._hang_up()
        if not self.done.called:
            self.done.callback(octets)

    def _fail(self, error: FetchFailed) -> None:
        self._hang_up()
        if not self.done.called:
            self.done.errback(error)

    def _cancelled(self, _: object) -> None:
        self._hang_up()

    def _hang_up(self) -> None:
        transport = self.transport
        if transport is not None and hasattr(transport, "abortConnection"):
            transport.abortConnection()


@implementer(IBodyProducer)
class _Body:
    """A request's body, in one write."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self.length = len(octets)

    def startProducing(self, consumer: Any) -> Deferred[None]:
        consumer.write(self._octets)
        done: Deferred[None] = Deferred()
        done.callback(None)
        return done

    def pauseProducing(self) -> None:
        pass

    def resumeProducing(self) -> None:
        pass

    def stopProducing(self) -> None:
        pass
