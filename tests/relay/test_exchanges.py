"""Which hosts get the mail for a domain, in which order, and why none does."""

import re
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from mailserver.interfaces import (
    Exchange,
    IMailExchanges,
    LookupDelayed,
    LoopsBack,
    NoExchange,
    NoSuchDomain,
    NullMX,
)
from mailserver.relay.exchanges import ADDRESSES, HOSTS, MailExchanges
from mailserver.relay.resolver import Resolver

from .dns_server import SERVFAIL, FakeDNS

Records = dict[tuple[str, str], Any]


def backwards(exchanges: list[Exchange]) -> None:
    exchanges.sort(key=lambda e: e.name, reverse=True)


class ExchangesTests(TestCase):
    def world(self, records: Records, **more: Any) -> MailExchanges:
        self.server = FakeDNS(records)
        address = self.server.start()
        stop = self.server.stop
        self.addCleanup(lambda: Deferred.fromCoroutine(stop()))
        resolver = Resolver(reactor, [address], try_seconds=10, lookup_seconds=20)
        values = {"hostname": "mx.a.test", "shuffle": backwards, **more}
        return MailExchanges(resolver, **values)

    async def hosts(self, records: Records, domain: str = "b.test", **more: Any) -> list[str]:
        return [e.name for e in await self.world(records, **more).exchanges(domain)]

    async def refusal(self, records: Records, domain: str = "b.test", **more: Any) -> type[Exception]:
        try:
            await self.world(records, **more).exchanges(domain)
        except Exception as error:
            return type(error)
        raise AssertionError("nothing was refused")

    async def test_provides_the_interface(self) -> None:
        verifyObject(IMailExchanges, self.world({}))

    async def test_preference_first_and_equals_shuffled(self) -> None:
        records = {
            ("b.test", "MX"): ["20 last.test.", "10 a.test.", "10 c.test.", "5 First.test."],
            **{(f"{name}.test", "A"): ["192.0.2.1"] for name in ("first", "a", "c", "last")},
        }
        assert await self.hosts(records) == ["first.test", "c.test", "a.test", "last.test"]

    async def test_addresses_alternate_and_are_bounded(self) -> None:
        records = {
            ("b.test", "MX"): ["5 mx.test."],
            ("mx.test", "A"): [f"192.0.2.{n}" for n in range(1, 100)],
            ("mx.test", "AAAA"): ["2001:db8::1"],
        }
        (exchange,) = await self.world(records, port=2525).exchanges("b.test")
        assert exchange.port == 2525
        assert exchange.addresses[1] == "2001:db8::1"
        assert len(exchange.addresses) == ADDRESSES

    async def test_a_thousand_exchanges_are_bounded_work(self) -> None:
        records = {("b.test", "MX"): [f"{n} mx{n}.test." for n in range(1000)]}
        records |= {(f"mx{n}.test", "A"): ["192.0.2.1"] for n in range(1000)}
        assert len(await self.hosts(records)) == HOSTS
        assert len(self.server.asked) <= 2 + 2 * HOSTS

    async def test_implicit_mx(self) -> None:
        assert await self.hosts({("b.test", "AAAA"): ["2001:db8::1"]}) == ["b.test"]

    async def test_an_alias_before_the_mx(self) -> None:
        records = {
            ("CNAME", "b.test"): "c.test.",
            ("b.test", "CNAME"): "",
            ("c.test", "MX"): ["5 mx.test."],
            ("mx.test", "A"): ["192.0.2.1"],
        }
        assert await self.hosts(records) == ["mx.test"]

    async def test_nobody_there(self) -> None:
        assert await self.refusal({}) is NoSuchDomain
        assert await self.refusal({("b.test", "TXT"): ["x"]}) is NoSuchDomain
        assert await self.refusal({("b.test", "MX"): ["0 ."]}) is NullMX

    async def test_the_root_among_other_hosts_is_no_host_and_no_refusal(self) -> None:
        records = {("b.test", "MX"): ["0 .", "10 mx.test."], ("mx.test", "A"): ["192.0.2.1"]}
        assert await self.hosts(records) == ["mx.test"]
        assert await self.refusal({("b.test", "MX"): ["0 .", "5 ."]}) is NullMX

    async def test_an_address_in_the_place_of_a_host_is_none(self) -> None:
        assert await self.refusal({("b.test", "MX"): ["10 192.0.2.1."]}) is NoExchange

    async def test_mx_that_leads_nowhere_does_not_fall_back(self) -> None:
        records = {("b.test", "MX"): ["5 gone.test."], ("b.test", "A"): ["192.0.2.1"]}
        assert await self.refusal(records) is NoExchange

    async def test_dns_trouble_is_a_delay(self) -> None:
        assert await self.refusal({("b.test", "MX"): SERVFAIL}) is LookupDelayed
        records = {("b.test", "MX"): ["5 mx.test."], ("mx.test", "A"): SERVFAIL}
        assert await self.refusal(records) is LookupDelayed

    async def test_one_host_in_trouble_does_not_hide_the_other(self) -> None:
        records = {
            ("b.test", "MX"): ["5 sick.test.", "10 well.test."],
            ("sick.test", "A"): SERVFAIL,
            ("well.test", "A"): ["192.0.2.1"],
            ("well.test", "AAAA"): SERVFAIL,
        }
        assert await self.hosts(records) == ["well.test"]

    async def test_our_own_name_drops_its_preference_and_all_behind(self) -> None:
        records = {
            ("b.test", "MX"): ["5 best.test.", "10 MX.a.test.", "10 equal.test.", "20 last.test."],
            **{(f"{name}.test", "A"): ["192.0.2.1"] for name in ("best", "mx.a", "equal", "last")},
        }
        assert await self.hosts(records) == ["best.test"]
        assert await self.refusal({("b.test", "MX"): ["5 mx.a.test.", "9 x.test."]}) is LoopsBack
        assert await self.refusal({("mx.a.test", "A"): ["192.0.2.1"]}, "mx.a.test") is LoopsBack

    async def test_loopback_and_nowhere_are_refused(self) -> None:
        for address in ("127.0.0.1", "127.9.9.9", "0.0.0.0", "0.1.2.3", "255.255.255.255", "169.254.169.254"):
            assert await self.refusal({("b.test", "A"): [address]}) is NoExchange, address
        for address in ("::1", "::", "::ffff:127.0.0.1", "fe80::1", "ff02::1"):
            assert await self.refusal({("b.test", "AAAA"): [address]}) is NoExchange, address
        assert await self.hosts({("b.test", "A"): ["127.0.0.1"]}, allow_loopback=True) == ["b.test"]
        mixed = self.world({("b.test", "A"): ["127.0.0.1", "192.0.2.1"]})
        assert (await mixed.exchanges("b.test"))[0].addresses == ("192.0.2.1",)

    async def test_address_literals(self) -> None:
        world = self.world({})
        assert await world.exchanges("[192.0.2.1]") == [Exchange("[192.0.2.1]", 25, ("192.0.2.1",))]
        (six,) = await world.exchanges("[IPv6:2001:db8::1]")
        assert six.addresses == ("2001:db8::1",)
        for literal, error in (
            ("[x]", NoSuchDomain),
            ("[127.0.0.1]", NoExchange),
            ("[IPv6:::1]", NoExchange),
            ("[IPv6:::ffff:127.0.0.1]", NoExchange),
            ("[IPv6:::]", NoExchange),
            ("[0.0.0.0]", NoExchange),
            ("[127.1]", NoSuchDomain),
            ("[2130706433]", NoSuchDomain),
        ):
            with pytest.raises(error):
                await world.exchanges(literal)
        assert self.server.asked == []

    async def test_a_next_hop_has_no_mx(self) -> None:
        world = self.world({("smart.test", "A"): ["192.0.2.9"]})
        assert list(await world.next_hop("127.0.0.1", 2525)) == [Exchange("127.0.0.1", 2525, ("127.0.0.1",))]
        assert await world.next_hop("smart.test", 25) == [Exchange("smart.test", 25, ("192.0.2.9",))]
        assert (await world.next_hop("localhost", 9))[0].addresses == ("127.0.0.1", "::1")
        assert ("smart.test", "MX") not in self.server.asked

    async def test_a_next_hop_that_is_not_found_delays(self) -> None:
        # The administrator's slip of the pen must not bounce everybody's mail.
        with pytest.raises(LookupDelayed, match=r"next hop gone\.test"):
            await self.world({}).next_hop("gone.test", 25)

    async def test_an_exchange_by_another_name_that_is_ourselves(self) -> None:
        records = {
            ("b.test", "MX"): ["10 other.test.", "20 alias.test.", "30 worse.test."],
            ("other.test", "A"): ["192.0.2.1"],
            ("alias.test", "A"): ["192.0.2.7"],
            ("worse.test", "A"): ["192.0.2.3"],
            ("c.test", "MX"): ["10 alias.test."],
        }

        def is_own(address: str, port: int) -> bool:
            return (address, port) == ("192.0.2.7", 25)

        assert await self.hosts(records, is_own=is_own) == ["other.test"]
        with pytest.raises(LoopsBack, match=r"alias\.test is this server"):
            await self.world(records, is_own=is_own).exchanges("c.test")
        with pytest.raises(LoopsBack, match="this server"):
            await self.world({}, is_own=is_own).exchanges("[192.0.2.7]")

    async def test_the_reason_of_a_refusal_is_told(self) -> None:
        for address, why in (
            ("127.0.0.1", "a loopback"),
            ("0.0.0.0", "the unspecified"),
            ("224.0.0.1", "a multicast"),
        ):
            records = {("b.test", "MX"): ["5 mx.test."], ("mx.test", "A"): [address]}
            with pytest.raises(
                NoExchange, match=re.escape(f"mx.test has the address {address}, which is {why}")
            ):
                await self.world(records).exchanges("b.test")

    async def test_questions_are_shared_and_answers_remembered_for_their_ttl(self) -> None:
        clock = [0.0]
        records = {("b.test", "MX"): ["5 mx.test."], ("mx.test", "A"): ["192.0.2.1"]}
        world = self.world(records, now=lambda: clock[0])
        await gatherResults([world.exchanges("b.test") for _ in range(20)])
        await world.exchanges("B.test")
        assert self.server.asked.count(("b.test", "MX")) == 1
        assert len(world._known) == 1
        clock[0] = 1e12
        records["b.test", "MX"] = ["5 other.test."]
        assert (await world.exchanges("b.test"))[0].name == "mx.test"  # the resolver's cache

    async def test_a_shared_question_fails_for_all(self) -> None:
        world = self.world({})
        asked = [world.exchanges("b.test") for _ in range(3)]
        for one in asked:
            with pytest.raises(NoSuchDomain):
                await one
        assert world._asked == {}
