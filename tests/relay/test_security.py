"""What a destination demands: the rows of KumoMTA's DANE table, MTA-STS beside them, REQUIRETLS above."""

import hashlib
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from mailserver.durable import Disk
from mailserver.interfaces import Exchange, LookupDelayed
from mailserver.relay.protection import (
    DANE,
    MTA_STS,
    OPPORTUNISTIC,
    WEBPKI,
    Level,
    Mismatch,
    Protection,
    Security,
)
from mailserver.relay.resolver import NameNotFound
from mailserver.relay.security import TransportSecurity
from mailserver.relay.sts_policy import STSPolicy
from mailserver.relay.tls_memory import TLSMemory
from mailserver.values.address import Address
from mailserver.values.envelope import Envelope

USABLE = (3, 1, 1, hashlib.sha256(b"key").digest())
UNUSABLE = (1, 1, 1, bytes(32))
SECURE = Exchange("mx.b.test", 25, ("192.0.2.1",), listed=True, authentic=True)
PLAIN_ADDRESS = replace(SECURE, authentic=False)
PLAIN_LIST = replace(SECURE, listed=False)
PLAIN = replace(SECURE, listed=False, authentic=False)
MAIL = Envelope(Address("ada", "a.test"), ())
REQUIRED = replace(MAIL, require_tls=True)
RELAXED = replace(MAIL, tls_optional=True)


class Answer:
    def __init__(self, records: Any) -> None:
        keys = ("usage", "selector", "mtype", "cert")
        self.rrset = [type("TLSA", (), dict(zip(keys, r, strict=True)))() for r in records] or None


class DNS:
    """``records[name]``: TLSA tuples, an exception, or nothing; ``insecure`` names are not vouched for."""

    def __init__(self, records: dict[str, Any]) -> None:
        self.records = records
        self.insecure: set[str] = set()
        self.asked: list[str] = []

    async def lookup_authentic(self, name: str, record: str) -> Any:
        assert record == "TLSA"
        self.asked.append(name)
        found = self.records.get(name, NameNotFound("no"))
        if isinstance(found, Exception):
            raise found
        return Answer(found), name not in self.insecure


class Policies:
    def __init__(self, mode: str = "", *hosts: str) -> None:
        self.found = STSPolicy("1", mode, hosts, 86400.0, 0.0) if mode else None
        self.doubted: list[str] = []
        self.told: tuple[str, str] | None = None

    def policy(self, domain: str) -> STSPolicy | None:
        return self.found

    def trouble(self, domain: str) -> tuple[str, str] | None:
        return self.told

    def doubt(self, domain: str) -> None:
        self.doubted.append(domain)


class Counter:
    def __init__(self) -> None:
        self.counted: list[tuple[str, str, str]] = []

    def count(self, domain: str, security: Security, host: str, address: str, wrong: Mismatch | None) -> None:
        self.counted.append((domain, host, wrong.kind if wrong else "good"))


class DemandsTests(SynchronousTestCase):
    def decide(
        self,
        exchange: Exchange = SECURE,
        records: Any = None,
        sts: Policies | None = None,
        envelope: Envelope = MAIL,
        memory: Any = None,
        dane: bool = True,
    ) -> Security:
        name = "_25._tcp.mx.b.test"
        self.dns: Any = DNS({} if records is None else {name: records})
        policies: Any = sts
        self.security = TransportSecurity(self.dns if dane else None, policies, memory)
        (security,) = self.demanded(self.security, "B.test", exchange, envelope)
        # What no policy decides is not reported either.
        assert security.domain == ("" if envelope is RELAXED else "b.test")
        return security

    def demanded(
        self, security: TransportSecurity, domain: str, exchange: Exchange, envelope: Envelope = MAIL
    ) -> Any:
        found = security.demands(domain, [exchange], envelope)
        return self.successResultOf(found) if isinstance(found, Deferred) else found

    # KumoMTA's table, row after row ---------------------------------------------------------------

    def test_a_chain_that_is_not_secure_is_not_asked_about(self) -> None:
        for exchange in (PLAIN, PLAIN_ADDRESS, PLAIN_LIST):
            assert self.decide(exchange, [USABLE]) == OPPORTUNISTIC
            assert self.dns.asked == []

    def test_usable_records_are_required(self) -> None:
        found = self.decide(SECURE, [USABLE, UNUSABLE])
        assert (found.level, found.by) == (Level.VERIFIED, DANE)
        assert [str(r) for r in found.tlsa] == ["3 1 1 " + USABLE[3].hex()]
        assert set(found.names) == {"mx.b.test", "b.test"}
        assert found.policy is not None
        assert found.policy.kind == "tlsa"

    def test_unusable_records_require_tls_with_anybody(self) -> None:
        found = self.decide(SECURE, [UNUSABLE])
        assert (found.level, found.by, found.watched) == (Level.ENCRYPTED, "", False)
        assert found.failure == "tlsa-invalid"

    def test_no_records_leave_it_to_others(self) -> None:
        assert self.decide(SECURE, None) == OPPORTUNISTIC
        assert self.decide(SECURE, []) == OPPORTUNISTIC
        assert self.dns.asked == ["_25._tcp.mx.b.test"]

    def test_a_failed_look_up_delays(self) -> None:
        # A policy of the other kind does not take its place: that would be a downgrade too.
        for policies in (None, Policies("enforce", "mx.b.test"), Policies("testing", "mx.b.test")):
            found = self.decide(SECURE, LookupDelayed("SERVFAIL"), policies)
            assert found.refused
            assert found.status.startswith("4.7.")
            assert found.failure == "dnssec-invalid"

    def test_records_that_nobody_vouches_for_are_none(self) -> None:
        self.dns = DNS({"_25._tcp.mx.b.test": [USABLE]})
        self.dns.insecure.add("_25._tcp.mx.b.test")
        security = TransportSecurity(self.dns)
        (found,) = self.demanded(security, "b.test", SECURE)
        assert found == OPPORTUNISTIC

    def test_what_is_known_makes_nobody_wait(self) -> None:
        known: Any = Policies("enforce", "mx.b.test")
        for security in (TransportSecurity(), TransportSecurity(None, known)):
            assert not isinstance(security.demands("b.test", [SECURE], MAIL), Deferred)

    def test_turned_off_nothing_is_asked(self) -> None:
        assert self.decide(SECURE, [USABLE], dane=False) == OPPORTUNISTIC
        assert self.dns.asked == []

    # MTA-STS beside DANE -----------------------------------------------------------------------------

    def test_dane_goes_before_mta_sts(self) -> None:
        for policies in (Policies("enforce", "mx.b.test"), Policies("enforce", "mx.other.test")):
            assert self.decide(SECURE, [USABLE], policies).by == DANE

    def test_mta_sts_may_add_to_unusable_records_but_takes_nothing_away(self) -> None:
        found = self.decide(SECURE, [UNUSABLE], Policies("enforce", "mx.b.test"))
        assert (found.level, found.by) == (Level.VERIFIED, MTA_STS)
        found = self.decide(SECURE, [UNUSABLE], Policies("testing", "mx.b.test"))
        assert (found.level, found.by, found.watched) == (Level.ENCRYPTED, MTA_STS, True)
        found = self.decide(SECURE, [UNUSABLE], Policies("testing", "other.test"))
        assert found.level is Level.ENCRYPTED

    def test_enforce(self) -> None:
        for exchange in (SECURE, PLAIN):
            found = self.decide(exchange, None, Policies("enforce", "*.b.test"))
            assert (found.level, found.by, found.names) == (Level.VERIFIED, MTA_STS, ("mx.b.test",))
            assert not found.watched
        refused = self.decide(PLAIN, None, Policies("enforce", "mx.other.test"))
        assert "MTA-STS" in refused.refused
        assert refused.status.startswith("4.7.")

    def test_testing_is_never_enforced(self) -> None:
        found = self.decide(PLAIN, None, Policies("testing", "mx.b.test"))
        assert (found.level, found.watched, found.refused) == (Level.OPPORTUNISTIC, True, "")
        found = self.decide(PLAIN, None, Policies("testing", "mx.other.test"))
        assert (found.level, found.refused, found.failure) == (Level.OPPORTUNISTIC, "", "validation-failure")

    def test_a_policy_that_cannot_be_had_is_only_told(self) -> None:
        policies = Policies()
        policies.told = ("sts-policy-fetch-error", "timeout")
        found = self.decide(PLAIN, None, policies)
        assert found == OPPORTUNISTIC
        assert found.failure == "sts-policy-fetch-error"
        told = self.security.trouble("B.test")
        assert told == "the MTA-STS policy cannot be had (sts-policy-fetch-error): timeout"
        assert TransportSecurity().trouble("b.test") == ""

    def test_an_address_literal_is_nobodys_policy(self) -> None:
        policies: Any = Policies("enforce", "mx.b.test")
        security = TransportSecurity(None, policies)
        literal = Exchange("[192.0.2.1]", 25, ("192.0.2.1",))
        assert self.demanded(security, "[192.0.2.1]", literal) == [OPPORTUNISTIC]
        (refused,) = self.demanded(security, "[192.0.2.1]", literal, REQUIRED)
        assert refused.status == "5.7.30"

    # REQUIRETLS, TLS-Required ---------------------------------------------------------------------------

    def test_require_tls_with_dane_or_mta_sts(self) -> None:
        for records, policies in (([USABLE], None), (None, Policies("enforce", "mx.b.test"))):
            found = self.decide(SECURE, records, policies, REQUIRED)
            assert (found.level, found.require_tls, found.refused) == (Level.VERIFIED, True, "")

    def test_require_tls_enforces_what_is_only_tested(self) -> None:
        found = self.decide(PLAIN, None, Policies("testing", "mx.b.test"), REQUIRED)
        assert (found.level, found.watched, found.by) == (Level.VERIFIED, False, MTA_STS)

    def test_require_tls_with_a_safe_look_up_asks_the_web_pki(self) -> None:
        for records in (None, [UNUSABLE]):
            found = self.decide(SECURE, records, None, REQUIRED)
            assert (found.level, found.by, found.names) == (Level.VERIFIED, WEBPKI, ("mx.b.test",))

    def test_require_tls_refuses_hosts_that_nothing_proves(self) -> None:
        for policies in (None, Policies("enforce", "mx.other.test"), Policies("testing", "mx.other.test")):
            found = self.decide(PLAIN, None, policies, REQUIRED)
            assert found.refused
            assert found.status == "5.7.30"
        own = replace(PLAIN, name="b.test")
        assert self.decide(own, None, None, REQUIRED).by == WEBPKI

    def test_tls_required_no_relaxes_everything(self) -> None:
        policies = Policies("enforce", "mx.other.test")
        assert self.decide(SECURE, [USABLE], policies, RELAXED) == OPPORTUNISTIC
        assert self.decide(SECURE, LookupDelayed("SERVFAIL"), policies, RELAXED) == OPPORTUNISTIC

    def test_the_session_of_a_report_is_not_in_the_next_report(self) -> None:
        reports = Counter()
        security = TransportSecurity(None, None, None, reports)
        for envelope, counted in ((RELAXED, 0), (MAIL, 1)):
            (found,) = self.demanded(security, "b.test", PLAIN, envelope)
            reached = Protection("TLSv1.3", "X")
            security.observed(["b.test"], found, "mx.b.test", "192.0.2.1", reached, None)
            assert len(reports.counted) == counted

    def test_require_tls_wins_over_tls_required_no(self) -> None:
        found = self.decide(SECURE, [USABLE], None, replace(RELAXED, require_tls=True))
        assert (found.by, found.require_tls) == (DANE, True)

    # Memory ----------------------------------------------------------------------------------------------

    def test_a_host_that_had_tls_keeps_it_where_that_is_asked_for(self) -> None:
        class Strict:
            def insists_on(self, host: str) -> bool:
                return host == "mx.b.test"

        strict: Any = Strict()
        assert self.decide(PLAIN, memory=strict).level is Level.ENCRYPTED
        assert self.decide(replace(PLAIN, name="new.b.test"), memory=strict) == OPPORTUNISTIC

    # What is learnt ---------------------------------------------------------------------------------------

    def test_a_policy_that_does_not_fit_is_doubted_and_told(self) -> None:
        policies, reports = Policies("enforce", "mx.b.test"), Counter()
        given: Any = policies
        security = TransportSecurity(None, given, None, reports)
        (found,) = self.demanded(security, "b.test", PLAIN)
        security.observed(
            ["b.test"], found, "mx.b.test", "192.0.2.1", Protection("TLSv1.3", "X", MTA_STS), None
        )
        assert policies.doubted == []
        wrong = Mismatch("certificate-expired", "old")
        security.observed(["b.test"], found, "mx.b.test", "192.0.2.1", None, wrong)
        assert policies.doubted == ["b.test"]
        assert [kind for _, _, kind in reports.counted] == ["good", "certificate-expired"]

    def test_a_refused_host_is_told_too(self) -> None:
        reports = Counter()
        given: Any = Policies("enforce", "mx.other.test")
        security = TransportSecurity(None, given, None, reports)
        (found,) = self.demanded(security, "b.test", PLAIN)
        security.refused(found, "mx.b.test", "192.0.2.1")
        assert reports.counted == [("b.test", "mx.b.test", "validation-failure")]


def test_domains_that_demand_the_same_share_sessions() -> None:
    one = Security(Level.VERIFIED, MTA_STS, ("mx.b.test",), domain="b.test")
    assert one == replace(one, domain="c.test")
    assert one != replace(one, require_tls=True)
    assert one != OPPORTUNISTIC


def test_memory(tmp_path: Any) -> None:
    clock = Clock()
    clock.advance(1_000_000)
    workers: Any = None

    def make(strict: bool) -> TLSMemory:
        made = TLSMemory(clock, tmp_path / "hosts.json", Disk(), workers, strict, clock.seconds)
        made.load()
        return made

    memory = make(True)
    memory.learn("mx.b.test", secured=False)
    assert not memory.insists_on("mx.b.test")
    memory.learn("MX.b.test", secured=True)
    memory.learn("mx.b.test", secured=False)
    assert memory.insists_on("mx.b.test")
    memory.save()
    assert make(True).insists_on("mx.b.test")
    assert not make(False).insists_on("mx.b.test")
    assert make(False).knows("mx.b.test")
    assert memory.forget("mx.b.test")
    assert not memory.insists_on("mx.b.test")
    again = make(True)
    memory.save()
    clock.advance(31 * 86400)
    assert not again.insists_on("mx.b.test")
    (tmp_path / "hosts.json").write_text("{torn")
    assert not make(True).knows("mx.b.test")
