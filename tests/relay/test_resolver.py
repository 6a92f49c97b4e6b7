"""The resolver against a server on loopback that answers, lies, cuts and is silent."""

import os
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.python import log
from twisted.trial.unittest import TestCase

from mailserver.interfaces import LookupDelayed
from mailserver.relay.resolver import NameNotFound, Resolver, nameserver_from

from .dns_server import GARBAGE, SERVFAIL, SILENT, WRONG_ID, FakeDNS


class ResolverTests(TestCase):
    def serve(
        self, records: dict[tuple[str, str], Any], truncate: bool = False, lookup_seconds: float = 0.5
    ) -> Resolver:
        self.server = FakeDNS(records, truncate)
        address = self.server.start()
        stop = self.server.stop
        self.addCleanup(lambda: Deferred.fromCoroutine(stop()))
        return Resolver(reactor, [address], try_seconds=lookup_seconds / 2, lookup_seconds=lookup_seconds)

    async def test_answers_are_cached(self) -> None:
        resolver = self.serve({("b.test", "MX"): ["10 mx.b.test."]})
        for _ in range(2):
            answer = await resolver.lookup("b.test", "MX")
            assert [r.preference for r in answer.rrset] == [10]
        assert self.server.asked == [("b.test", "MX")]

    async def test_nodata_is_an_empty_answer(self) -> None:
        answer = await self.serve({("b.test", "A"): ["192.0.2.1"]}).lookup("b.test", "MX")
        assert answer.rrset is None

    async def test_nxdomain_and_names_that_are_none(self) -> None:
        resolver = self.serve({})
        for name in ("no.test", "a" * 64 + ".test", "a..test", ".".join(["x" * 60] * 5)):
            with pytest.raises(NameNotFound):
                await resolver.lookup(name, "MX")
        assert self.server.asked == [("no.test", "MX")]

    async def test_trouble_is_a_delay(self) -> None:
        words = [SERVFAIL, SILENT, WRONG_ID, GARBAGE]
        resolver = self.serve({(f"{n}.test", "MX"): word for n, word in enumerate(words)})
        for n in range(len(words)):
            with pytest.raises(LookupDelayed):
                await resolver.lookup(f"{n}.test", "MX")

    async def test_a_record_shorter_than_its_kind_is_a_delay(self) -> None:
        """As Postfix read beyond the end of short MX, SRV and TLSA records."""
        short = [(kind, b"\0\x0a\x03mx"[:length]) for kind in ("MX", "SRV", "TLSA") for length in range(3)]
        short += [("MX", b"\0\x0a\x3fmx"), ("A", b"\x7f\0\0"), ("AAAA", bytes(15)), ("TXT", b"\xffv=1")]
        resolver = self.serve({(f"{n}.test", kind): octets for n, (kind, octets) in enumerate(short)})
        for n, (kind, _) in enumerate(short):
            with pytest.raises(LookupDelayed):
                await resolver.lookup(f"{n}.test", kind)
        assert len(set(self.server.asked)) == len(short)

    async def test_a_closed_port_is_a_delay_at_once(self) -> None:
        resolver = self.serve({})
        await self.server.stop()
        with pytest.raises(LookupDelayed):
            await resolver.lookup("b.test", "MX")

    async def test_a_question_leaves_no_line_in_the_log_and_no_socket(self) -> None:
        resolver = self.serve({("b.test", "MX"): ["10 mx.b.test."]})
        await resolver.lookup("b.test", "AAAA")  # whatever is opened once
        said: list[Any] = []
        log.addObserver(said.append)
        self.addCleanup(log.removeObserver, said.append)
        before = len(os.listdir("/proc/self/fd"))
        for name in ("b.test", "c.test"):
            try:
                await resolver.lookup(name, "MX")
            except NameNotFound:
                pass
        assert said == []
        assert len(os.listdir("/proc/self/fd")) == before

    async def test_truncation_goes_on_over_tcp(self) -> None:
        many = [f"{n} mx{n}.b.test." for n in range(1000)]
        resolver = self.serve({("b.test", "MX"): many}, truncate=True, lookup_seconds=20)
        answer = await resolver.lookup("b.test", "MX")
        assert len(answer.rrset) == 1000

    async def test_aliases_are_followed_and_loops_end(self) -> None:
        resolver = self.serve(
            {
                ("CNAME", "a.test"): "b.test.",
                ("a.test", "CNAME"): "",
                ("b.test", "A"): ["192.0.2.1"],
                ("CNAME", "x.test"): "y.test.",
                ("x.test", "CNAME"): "",
                ("CNAME", "y.test"): "x.test.",
                ("y.test", "CNAME"): "",
            }
        )
        answer = await resolver.lookup("a.test", "A")
        assert [r.address for r in answer.rrset] == ["192.0.2.1"]
        with pytest.raises(NameNotFound, match=r"x\.test is an alias that leads back to itself"):
            await resolver.lookup("x.test", "A")

    async def test_many_at_once(self) -> None:
        names = [f"n{n}.test" for n in range(50)]
        resolver = self.serve({(name, "A"): ["192.0.2.1"] for name in names}, lookup_seconds=20)
        looked_up = [Deferred.fromCoroutine(resolver.lookup(name, "A")) for name in names]
        assert len(await gatherResults(looked_up)) == 50


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1", ("127.0.0.1", 53)),
        ("127.0.0.1:5353", ("127.0.0.1", 5353)),
        ("2001:db8::1", ("2001:db8::1", 53)),
        ("[::1]:5353", ("::1", 5353)),
        ("[::1]", ("::1", 53)),
    ],
)
def test_nameserver(text: str, expected: tuple[str, int]) -> None:
    server: Any = nameserver_from(text)
    assert (server.address, server.port) == expected


@pytest.mark.parametrize(
    "text", ["", "ns.test", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000", "[::1", "1.2.3"]
)
def test_no_nameserver(text: str) -> None:
    with pytest.raises(ValueError, match="expected") as error:
        nameserver_from(text)
    assert repr(text) in str(error.value)
