"""Policies over HTTPS: what is taken, and every way in which a stranger's web server can be wrong."""

from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from mailserver.relay import https
from mailserver.relay.https import HTTPS, MOST_OCTETS, FetchFailed
from mailserver.relay.resolver import Resolver
from mailserver.relay.tls import VerifiedTLS
from tests.scratch import scratch_path

from .authority import Authority, Identity
from .dns_server import FakeDNS

ROOT = Authority()
GOOD = ROOT.issue("mta-sts.b.test")
HOST, NAME = "127.0.0.1", "mta-sts.b.test"
POLICY = b"version: STSv1\n"


class Web(Resource):
    """One answer for every URL; what was posted is kept."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.code, self.kind, self.body = 200, b"text/plain; charset=utf-8", POLICY
        self.location = b""
        self.stall = False
        self.paths: list[bytes] = []
        self.posted: list[tuple[bytes, bytes]] = []

    def render_GET(self, request: Request) -> Any:
        self.paths.append(request.path)
        request.setResponseCode(self.code)
        request.setHeader(b"content-type", self.kind)
        if self.location:
            request.setHeader(b"location", self.location)
        if self.stall:
            return NOT_DONE_YET
        return self.body

    def render_POST(self, request: Request) -> Any:
        kind = request.requestHeaders.getRawHeaders(b"content-type", [b""])[0]
        self.posted.append((kind, request.content.read()))
        request.setResponseCode(self.code)
        return b"thanks"


class HTTPSTests(TestCase):
    timeout = 30

    def setUp(self) -> None:
        self.web = Web()
        self.folder = scratch_path(self)
        self.authorities: Path = ROOT.write(self.folder)
        self.dns = FakeDNS({(NAME, "A"): [HOST]})
        self.nameserver = self.dns.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(self.dns.stop()))
        # Connections that were cut are noticed by the server a turn later.
        self.addCleanup(lambda: deferLater(reactor, 0.05, lambda: None))

    def serve(self, identity: Identity = GOOD, factory: Any = None) -> HTTPS:
        site = factory or Site(self.web)
        port = reactor.listenSSL(0, site, identity.options(), interface=HOST)
        self.addCleanup(lambda: maybeDeferred(port.stopListening))
        return self.client(port.getHost().port)

    def client(self, port: int, allow_loopback: bool = True) -> HTTPS:
        resolver = Resolver(reactor, [self.nameserver], try_seconds=0.5, lookup_seconds=1.0)
        return HTTPS(reactor, resolver, self.authorities, allow_loopback, port)

    async def refused(self, client: HTTPS) -> FetchFailed:
        with pytest.raises(FetchFailed) as caught:
            await client.fetch_policy("b.test")
        assert str(caught.value).isprintable()
        return caught.value

    async def test_a_policy(self) -> None:
        assert await self.serve().fetch_policy("b.test") == POLICY
        assert self.web.paths == [b"/.well-known/mta-sts.txt"]

    async def test_no_redirect_is_followed(self) -> None:
        self.web.code, self.web.location = 302, b"https://mta-sts.b.test/elsewhere"
        assert "302" in str(await self.refused(self.serve()))
        assert len(self.web.paths) == 1

    async def test_errors(self) -> None:
        client = self.serve()
        for code in (204, 404, 500):
            self.web.code = code
            assert str(code) in str(await self.refused(client))

    async def test_only_plain_text(self) -> None:
        self.web.kind = b"text/html"
        assert (await self.refused(self.serve())).kind == "sts-policy-invalid"

    async def test_the_longest_policy_and_one_octet_more(self) -> None:
        client = self.serve()
        self.web.body = b"x" * MOST_OCTETS
        assert len(await client.fetch_policy("b.test")) == MOST_OCTETS
        self.web.body += b"x"
        assert "longer" in str(await self.refused(client))

    async def test_certificates(self) -> None:
        for identity in (
            ROOT.issue("mta-sts.b.test", expired=True),
            ROOT.issue("b.test"),
            ROOT.issue("*.test"),
            Authority("Stranger").issue("mta-sts.b.test"),
        ):
            assert (await self.refused(self.serve(identity))).kind == "sts-webpki-invalid"
        assert self.web.paths == []

    async def test_a_server_that_stalls_or_cuts(self) -> None:
        self.patch(https, "FETCH_SECONDS", 0.3)
        self.web.stall = True
        assert "did not answer" in str(await self.refused(self.serve()))

        class Cutting(Protocol):
            def dataReceived(self, data: bytes) -> None:
                self.transport.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 50\r\n\r\nver"
                )
                reactor.callLater(0.02, self.transport.abortConnection)

        await self.refused(self.serve(factory=Factory.forProtocol(Cutting)))

        class Silent(Protocol):
            pass

        port = reactor.listenTCP(0, Factory.forProtocol(Silent), interface=HOST)
        self.addCleanup(lambda: maybeDeferred(port.stopListening))
        await self.refused(self.client(port.getHost().port))

    async def test_garbage_for_http(self) -> None:
        class Garbage(Protocol):
            def connectionMade(self) -> None:
                self.transport.write(b"SSH-2.0-hello\r\n\r\n")

        self.patch(https, "FETCH_SECONDS", 1.0)
        await self.refused(self.serve(factory=Factory.forProtocol(Garbage)))

    async def test_nobody_there(self) -> None:
        await self.refused(self.client(1))
        del self.dns.records[NAME, "A"]
        self.dns.records["b.test", "A"] = [HOST]
        assert "exist" in str(await self.refused(self.client(1)))

    async def test_this_machine_is_not_asked(self) -> None:
        assert "loopback" in str(await self.refused(self.client(1, allow_loopback=False)))
        for address in ("::ffff:127.0.0.1", "::", "fe80::1", "::ffff:169.254.169.254"):
            self.dns.records = {(NAME, "AAAA"): [address]}
            assert ", which is " in str(await self.refused(self.client(1, allow_loopback=False)))

    async def test_a_report_is_posted(self) -> None:
        client = self.serve()
        await client.post(f"https://{NAME}/v1/tlsrpt", "application/tlsrpt+gzip", b"octets")
        assert self.web.posted == [(b"application/tlsrpt+gzip", b"octets")]
        self.web.code = 503
        with pytest.raises(FetchFailed):
            await client.post(f"https://{NAME}/", "x/y", b"octets")
        with pytest.raises(FetchFailed):
            await client.post("http://b.test/", "x/y", b"octets")


def test_the_systems_authorities_can_be_read() -> None:
    VerifiedTLS().to("b.test")
