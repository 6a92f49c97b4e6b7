"""What DNS says of a client: confirmed names, scores, and a resolver that is dead or lies."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailserver.interfaces import LookupDelayed
from mailserver.policy.reputation import block_lists, query_name, refusal
from mailserver.receive.lookups import FAILED_SECONDS, ClientLookups
from mailserver.values.account import Account, LocalUser
from mailserver.values.address import Address
from mailserver.values.reply import Reply
from mailserver.values.session import RecipientFacts, SessionFacts, TransactionFacts
from mailserver.values.trace import received

ADA = Address("ada", "example.test")


class Zone:
    """A resolver: answers at once, or when it is told to, or never."""

    def __init__(self, records: dict[tuple[str, str], list[str]]) -> None:
        self.records = records
        self.asked: list[str] = []
        self.waiting: list[Deferred[None]] = []
        self.slow = False
        self.broken = False

    async def texts(self, name: str, record: str) -> Sequence[str]:
        self.asked.append(name)
        if self.slow:
            waiting: Deferred[None] = Deferred()
            self.waiting.append(waiting)
            await waiting
        if self.broken:
            raise LookupDelayed("SERVFAIL")
        return self.records.get((name, record), [])


class Lookups(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.zone = Zone(
            {
                ("7.2.0.192.bad.test", "A"): ["127.0.0.2"],
                ("8.2.0.192.bad.test", "A"): ["127.255.255.254"],
                ("9.2.0.192.bad.test", "A"): ["127.0.0.10"],
                ("9.2.0.192.good.test", "A"): ["127.0.0.1"],
                ("7.2.0.192.in-addr.arpa", "PTR"): ["liar.test.", "mail.out.test."],
                ("liar.test", "A"): ["198.51.100.1"],
                ("mail.out.test", "A"): ["192.0.2.7", "192.0.2.8"],
                ("8.2.0.192.in-addr.arpa", "PTR"): ["evil.test\\013\\010X:\\032y."],
                ("evil.test\\013\\010x:\\032y", "A"): ["192.0.2.8"],
            }
        )
        self.lookups = self.made({"bad.test=127.0.0.0/29": 5, "good.test": -5})

    def made(self, scores: dict[str, int], reverse_dns: bool = True) -> ClientLookups:
        def refuse(facts: Any, score: int, zones: Sequence[str]) -> Reply | None:
            return refusal(facts, score, 5, zones)

        return ClientLookups(self.zone, self.clock, block_lists(scores), query_name, refuse, reverse_dns, 5.0)

    def come(self, host: str, **session: Any) -> SessionFacts:
        facts = SessionFacts("smtp", host, 25, **session)
        self.lookups.begin(facts)
        return facts

    def rule(self, facts: SessionFacts, to: Address = ADA) -> Any:
        opinion = self.lookups(RecipientFacts(TransactionFacts(facts), to, LocalUser(Account(to))))
        return Deferred.fromCoroutine(opinion) if inspect.iscoroutine(opinion) else opinion

    def test_a_listed_client_is_refused_and_the_postmaster_reached(self) -> None:
        facts = self.come("192.0.2.7")
        answer = self.rule(facts)
        assert (answer.code, answer.enhanced) == (554, "5.7.1")
        assert "[192.0.2.7] is listed by bad.test" in answer.text
        assert self.rule(facts, Address("postmaster", "example.test")) is None

    def test_errors_of_a_list_and_other_answers_are_no_listing(self) -> None:
        for host in ("192.0.2.8", "192.0.2.9", "192.0.2.10"):
            assert self.rule(self.come(host)) is None, host

    def test_scores_add_up(self) -> None:
        self.lookups = self.made({"bad.test": 5, "good.test": -5})
        assert self.rule(self.come("192.0.2.9")) is None

    def test_only_a_name_that_leads_back_counts(self) -> None:
        facts = self.come("192.0.2.7")
        assert self.lookups.name_of(facts) == "mail.out.test"
        facts.client_name = "mail.out.test"
        assert b"(mail.out.test [192.0.2.7])" in received(facts, "mx.test", "1", 0.0)

    def test_a_name_with_line_ends_in_it_is_none(self) -> None:
        assert self.lookups.name_of(self.come("192.0.2.8")) == ""

    def test_rcpt_waits_for_the_answers(self) -> None:
        self.zone.slow = True
        answer = self.rule(self.come("192.0.2.7"))
        self.assertNoResult(answer)
        for each in self.zone.waiting:
            each.callback(None)
        assert self.successResultOf(answer).code == 554

    def test_a_dead_resolver_costs_one_wait_and_then_nothing(self) -> None:
        self.zone.slow = True
        answer = self.rule(self.come("192.0.2.7"))
        self.clock.advance(5)
        assert self.successResultOf(answer) is None
        asked = len(self.zone.asked)
        assert self.rule(self.come("192.0.2.8")) is None
        assert len(self.zone.asked) == asked
        self.clock.advance(FAILED_SECONDS)
        self.zone.slow = False
        self.come("192.0.2.9")
        assert len(self.zone.asked) > asked

    def test_servfail_counts_for_nothing(self) -> None:
        self.zone.broken = True
        assert self.rule(self.come("192.0.2.7")) is None

    def test_the_same_client_is_not_asked_about_twice(self) -> None:
        self.come("192.0.2.7")
        asked = len(self.zone.asked)
        assert self.rule(self.come("192.0.2.7")) is not None
        assert len(self.zone.asked) == asked

    def test_known_clients_are_not_asked_about(self) -> None:
        self.come("192.0.2.7", trusted=True)
        self.come("192.0.2.7", exempt=True)
        assert self.zone.asked == []
        facts = self.come("192.0.2.7")
        facts.account = Account(ADA)
        assert self.rule(facts) is None

    def test_ipv6_is_asked_by_half_octets(self) -> None:
        assert query_name("2001:db8::1", "bad.test") == "1." + "0." * 23 + "8.b.d.0.1.0.0.2.bad.test"

    def test_a_wrong_filter_is_told(self) -> None:
        with pytest.raises(ValueError, match=r"127\.0\.0\.0"):
            block_lists({"bad.test=10.0.0.0/8": 1})

    def test_nothing_is_waited_for_after_the_end(self) -> None:
        self.zone.slow = True
        answer = self.rule(self.come("192.0.2.7"))
        self.lookups.stop()
        assert self.zone.waiting
        assert all(waiting.called for waiting in self.zone.waiting)
        assert self.successResultOf(answer) is None
