"""Demands that are kept: a peer that does TLS well, wrongly, in part or not at all, at every phase."""

import hashlib
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from mailserver.interfaces import Exchange
from mailserver.relay.agent import RelayAgent
from mailserver.relay.knowing import Knowing
from mailserver.relay.protection import DANE, MTA_STS, TLSA, WEBPKI, Level, Mismatch, Protection, Security
from mailserver.relay.tls import ClientTLS
from mailserver.values.outcome import Delayed, Failed, Outcome, Relayed
from tests.scratch import scratch_path

from .authority import Authority, Identity
from .peers import DROP, SILENT, Peer, PeerSession
from .test_agent import AgentCase, Exchanges, entry

OFFER = "250-peer\r\n250-PIPELINING\r\n250-REQUIRETLS\r\n250 STARTTLS"
ROOT = Authority()
GOOD = ROOT.issue("mx.b.test", root=True)
EXPIRED = ROOT.issue("mx.b.test", expired=True)
OTHER = ROOT.issue("mx.evil.test")
STRANGER = Authority("Stranger").issue("mx.b.test")


def tlsa(identity: Identity) -> TLSA:
    key = identity.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return TLSA(3, 1, 1, hashlib.sha256(key).digest())


BY_STS = Security(Level.VERIFIED, MTA_STS, ("mx.b.test",))
BY_DANE = Security(Level.VERIFIED, DANE, ("mx.b.test",), (tlsa(GOOD),))
ENCRYPTED = Security(Level.ENCRYPTED)
TESTING = Security(Level.OPPORTUNISTIC, MTA_STS, ("mx.b.test",), watched=True)
REQUIRED = Security(Level.VERIFIED, WEBPKI, ("mx.b.test",), require_tls=True)


class Demanding:
    """Demands the same of every host, and keeps what it is told of sessions."""

    def __init__(self) -> None:
        self.security = Security()
        self.domain = "b.test"
        self.seen: list[tuple[Protection | None, Mismatch | None]] = []

    def demands(self, domain: str, exchanges: Any, envelope: Any) -> Any:
        return [self.security] * len(exchanges)

    def observed(
        self,
        domains: Any,
        security: Security,
        host: str,
        address: str,
        reached: Protection | None,
        wrong: Mismatch | None,
    ) -> None:
        assert list(domains) == [self.domain]
        self.seen.append((reached, wrong))

    def refused(self, security: Security, host: str, address: str) -> None:
        pass


class EnforcedCase(AgentCase):
    def setUp(self) -> None:
        super().setUp()
        self.demanding = Demanding()
        tls = ClientTLS(ROOT.write(scratch_path(self)))
        exchanges = Exchanges(self.hosts)
        self.agent = RelayAgent(reactor, exchanges, "mx.a.test", demands=self.demanding, tls=tls)
        self.agent.start()

    def secure(self, identity: Identity = GOOD, **more: Any) -> Peer:
        return self.peer(tls=identity.options(), **{"EHLO": OFFER, "STARTTLS": "220 go", **more})

    async def under(self, security: Security, **envelope: Any) -> Outcome:
        """One message under a demand, on a connection of its own."""
        self.demanding.security = security
        outcome = await self.one(entry("x@b.test", **envelope))
        self.agent.destinations.close()
        self.agent.dialler.memory._hosts.clear()
        await deferLater(reactor, 0.02, lambda: None)
        return outcome


class WalkTests(EnforcedCase):
    async def test_a_walk_tells_policy_and_tls_each_with_its_time(self) -> None:
        peer = self.secure()
        demands = self.demanding.demands
        self.demanding.demands = lambda *given: deferLater(reactor, 0.2, demands, *given)  # type: ignore[method-assign]
        self.demanding.security = BY_DANE
        stages = await Knowing(reactor, self.agent, "mx.a.test").route({"address": "x@b.test"})
        told = {stage["stage"]: stage for stage in stages}
        assert told["look-up"]["seconds"] < 0.1 < told["policy"]["seconds"]
        assert told["policy"]["told"].endswith("TLS verified DANE")
        assert told["TLS"]["told"].endswith("verified by DANE")
        assert told["RCPT TO"]["ok"]
        assert peer.messages == []


class VerifiedTests(EnforcedCase):
    async def test_a_good_host_is_verified_and_it_is_told(self) -> None:
        peer = self.secure()
        for security in (BY_STS, BY_DANE, REQUIRED):
            assert isinstance(await self.under(security), Relayed)
            reached, wrong = self.demanding.seen[-1]
            assert wrong is None
            assert reached is not None
            assert reached.verified_by == security.by
            assert reached.version.startswith("TLSv1.")
        assert len(peer.messages) == 3

    async def test_bad_certificates(self) -> None:
        for identity, kind in (
            (EXPIRED, "certificate-expired"),
            (OTHER, "certificate-host-mismatch"),
            (STRANGER, "certificate-not-trusted"),
        ):
            peer = self.secure(identity)
            outcome = await self.under(BY_STS)
            assert isinstance(outcome, Delayed)
            assert "certificate" in outcome.diagnostic
            assert peer.said("MAIL") == []
            assert self.demanding.seen[-1][1] is not None
            assert self.demanding.seen[-1][1].kind == kind
            # A policy in testing sees the same and lets the mail pass, in the same session.
            assert isinstance(await self.under(TESTING), Relayed)
            reached, wrong = self.demanding.seen[-1]
            assert reached is not None
            assert (wrong and wrong.kind, reached.verified_by) == (kind, "")
            # Nobody asks: nobody minds.
            assert isinstance(await self.under(ENCRYPTED), Relayed)
            assert isinstance(await self.under(Security()), Relayed)

    async def test_another_key_than_the_records(self) -> None:
        peer = self.secure(OTHER)
        outcome = await self.under(BY_DANE)
        assert isinstance(outcome, Delayed)
        assert "TLSA" in outcome.diagnostic
        assert peer.said("MAIL") == []

    async def test_an_end_entity_record_is_enough_for_an_expired_stranger(self) -> None:
        for identity in (EXPIRED, STRANGER):
            self.secure(identity)
            security = Security(Level.VERIFIED, DANE, ("mx.b.test",), (tlsa(identity),))
            assert isinstance(await self.under(security), Relayed)

    async def test_a_refused_host_is_not_even_called(self) -> None:
        peer = self.secure()
        refused = Security(Level.VERIFIED, refused="it is not named", status="4.7.5")
        outcome = await self.under(refused)
        assert isinstance(outcome, Delayed)
        assert (outcome.status, outcome.diagnostic) == ("4.7.5", "it is not named")
        assert peer.connections == 0

    async def test_a_mismatch_says_nothing_about_other_domains_at_the_same_address(self) -> None:
        peer = self.secure(STRANGER)
        self.hosts["c.test"] = [Exchange("mx.c.test", self.hosts["b.test"][0].port, ("127.0.0.1",))]
        self.demanding.security = BY_STS
        assert isinstance(await self.one(), Delayed)
        self.demanding.security = Security()
        self.demanding.domain = "c.test"
        assert isinstance(await self.one(entry("x@c.test")), Relayed)
        assert len(peer.messages) == 1

    async def test_sessions_are_not_shared_between_demands(self) -> None:
        peer = self.secure(STRANGER)
        self.demanding.security = Security()
        assert isinstance(await self.one(), Relayed)
        self.demanding.security = BY_STS
        assert isinstance(await self.one(), Delayed)
        assert len(peer.messages) == 1


class DowngradeTests(EnforcedCase):
    """Whatever the peer does to STARTTLS, nothing of an enforced policy goes in clear."""

    async def nothing_in_clear(self, peer: Peer) -> None:
        for security in (BY_STS, BY_DANE, ENCRYPTED):
            outcome = await self.under(security)
            assert isinstance(outcome, Delayed), security
            assert peer.said("MAIL") == []
            assert peer.messages == []
            assert all(reached is None for reached, _ in self.demanding.seen)

    async def test_not_offered(self) -> None:
        peer = self.peer(EHLO="250-peer\r\n250 PIPELINING")
        await self.nothing_in_clear(peer)
        wrong = self.demanding.seen[-1][1]
        assert wrong is not None
        assert wrong.kind == "starttls-not-supported"
        assert isinstance(await self.under(TESTING), Relayed)

    async def test_refused_for_now_and_for_good(self) -> None:
        for reply in ("454 4.7.0 not now", "502 5.5.1 what?", "421 4.3.2 bye"):
            peer = self.peer(EHLO=OFFER, STARTTLS=reply)
            await self.nothing_in_clear(peer)

    async def test_no_ehlo_only_helo(self) -> None:
        await self.nothing_in_clear(self.peer(EHLO="502 what?"))

    async def test_dropped_at_every_phase(self) -> None:
        for phase in ("connect", "EHLO", "STARTTLS"):
            await self.nothing_in_clear(self.peer(**{"EHLO": OFFER, phase: DROP}))

    async def test_a_handshake_that_is_none(self) -> None:
        class Garbling(PeerSession):
            def answer(self, verb: str, line: str) -> None:
                super().answer(verb, line)
                if verb == "STARTTLS":
                    reactor.callLater(0.02, self.transport.write, b"500 what?\r\n")

            def lineReceived(self, line: bytes) -> None:
                if line.isascii():
                    super().lineReceived(line)

        peer = self.peer(EHLO=OFFER, STARTTLS="220 go")
        peer.listening.factory.protocol = Garbling
        await self.nothing_in_clear(peer)

    async def test_a_response_before_the_handshake(self) -> None:
        class Injecting(PeerSession):
            def answer(self, verb: str, line: str) -> None:
                if verb == "STARTTLS":
                    self.transport.write(b"220 go\r\n250-peer\r\n250 REQUIRETLS\r\n")
                    self.transport.startTLS(GOOD.options())
                else:
                    super().answer(verb, line)

        peer = self.secure()
        peer.listening.factory.protocol = Injecting
        await self.nothing_in_clear(peer)

    async def test_stalled_at_every_phase(self) -> None:
        for phase in ("connect", "EHLO", "STARTTLS"):
            peer = self.peer(**{"EHLO": OFFER, phase: SILENT})
            self.demanding.security = BY_STS
            waiting = Deferred.fromCoroutine(self.one())
            while not peer.open:
                await self.pause()
            await self.pause()
            (session,) = self.agent.dialler.sessions
            session._deadline.move(0)
            assert isinstance(await waiting, Delayed), phase
            assert peer.said("MAIL") == []
            await self.pause()

    async def test_dropped_after_the_handshake(self) -> None:
        class Leaving(PeerSession):
            seen = 0

            def answer(self, verb: str, line: str) -> None:
                if verb == "EHLO":
                    Leaving.seen += 1
                    if Leaving.seen % 2 == 0:
                        self.transport.abortConnection()
                        return
                super().answer(verb, line)

        peer = self.secure()
        peer.listening.factory.protocol = Leaving
        assert isinstance(await self.under(BY_STS), Delayed)
        assert peer.messages == []


class RequireTLSTests(EnforcedCase):
    async def test_it_is_said_to_a_server_that_offers_it(self) -> None:
        peer = self.secure()
        assert isinstance(await self.under(REQUIRED, require_tls=True), Relayed)
        assert "REQUIRETLS" in peer.said("MAIL")[0]

    async def test_not_offered_is_for_good(self) -> None:
        peer = self.secure(EHLO=OFFER.replace("250-REQUIRETLS\r\n", ""))
        outcome = await self.under(REQUIRED, require_tls=True)
        assert isinstance(outcome, Failed)
        assert outcome.status == "5.7.30"
        assert peer.messages == []

    async def test_no_host_that_is_proved_is_for_good(self) -> None:
        refused = Security(Level.VERIFIED, require_tls=True, refused="nothing proves it", status="5.7.30")
        self.secure()
        outcome = await self.under(refused, require_tls=True)
        assert isinstance(outcome, Failed)
        assert outcome.status == "5.7.30"

    async def test_a_second_host_may_do_what_the_first_cannot(self) -> None:
        self.secure(EHLO=OFFER.replace("250-REQUIRETLS\r\n", ""))
        (first,) = self.hosts["b.test"]
        second = self.secure()
        (able,) = self.hosts["b.test"]
        self.hosts["b.test"] = [first, Exchange("mx.b.test", able.port, ("127.0.0.1",))]
        assert isinstance(await self.under(REQUIRED, require_tls=True), Relayed)
        assert len(second.messages) == 1

    async def test_a_host_that_is_down_is_not_for_good(self) -> None:
        self.hosts["b.test"] = [Exchange("mx.b.test", self.dead_port(), ("127.0.0.1",))]
        assert isinstance(await self.under(REQUIRED, require_tls=True), Delayed)

    async def test_another_message_in_the_same_session_does_not_say_it(self) -> None:
        peer = self.secure()
        assert isinstance(await self.under(BY_STS), Relayed)
        assert "REQUIRETLS" not in peer.said("MAIL")[0]
