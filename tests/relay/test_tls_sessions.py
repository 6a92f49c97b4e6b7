"""TLS sessions that are resumed: with whom, for how long, and never where somebody is to be verified."""

from typing import Any

from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.ssl import CertificateOptions, TLSVersion

from mailserver.relay.protection import Level, Security
from mailserver.relay.tls_sessions import KEPT_AT_ONE, KEPT_SECONDS, PLACES, Place, TLSSessions

from .peers import Peer, PeerSession
from .test_enforced_tls import BY_DANE, BY_STS, ENCRYPTED, GOOD, OFFER, TESTING, EnforcedCase


def place(host: str = "mx.b.test", address: str = "192.0.2.1", level: Level = Level.OPPORTUNISTIC) -> Place:
    return Place(host, address, 25, level)


def a_session() -> Any:
    return object()


def test_a_session_is_used_once_and_the_youngest_first() -> None:
    sessions = TLSSessions()
    first, second = a_session(), a_session()
    assert sessions.take(place()) is None
    sessions.keep(place(), first)
    sessions.keep(place(), second)
    assert sessions.take(place()) is second
    assert sessions.take(place()) is first
    assert sessions.take(place()) is None


def test_another_host_address_or_demand_is_another_place() -> None:
    sessions = TLSSessions()
    sessions.keep(place(), a_session())
    for other in (place("mx.c.test"), place(address="192.0.2.2"), place(level=Level.ENCRYPTED)):
        assert sessions.take(other) is None


def test_it_is_bounded_in_time_and_number() -> None:
    clock = [0.0]
    sessions = TLSSessions(now=lambda: clock[0])
    for _ in range(KEPT_AT_ONE + 3):
        sessions.keep(place(), a_session())
    assert len([1 for _ in range(KEPT_AT_ONE + 3) if sessions.take(place())]) == KEPT_AT_ONE
    sessions.keep(place(), a_session())
    clock[0] = KEPT_SECONDS + 1
    assert sessions.take(place()) is None
    for number in range(PLACES + 10):
        sessions.keep(place(f"mx{number}.test"), a_session())
    assert len(sessions._kept) == PLACES


def test_where_it_was_given_up_nothing_is_kept_any_more() -> None:
    sessions = TLSSessions()
    sessions.give_up(place())
    sessions.keep(place(), a_session())
    assert sessions.take(place()) is None


class Noting(PeerSession):
    """Notes of each session whether its handshake was a resumed one."""

    def lineReceived(self, line: bytes) -> None:
        handle = getattr(self.transport, "getHandle", lambda: None)()
        if line.startswith(b"MAIL") and isinstance(handle, SSL.Connection):
            self.peer.resumed.append(bool(SSL._lib.SSL_session_reused(handle._ssl)))
        super().lineReceived(line)


class ResumptionTests(EnforcedCase):
    def ticketing(self, newest: Any = TLSVersion.TLSv1_3) -> Peer:
        key = GOOD.options()
        options = CertificateOptions(
            privateKey=key.privateKey,
            certificate=key.certificate,
            extraCertChain=key.extraCertChain,
            enableSessions=True,
            enableSessionTickets=True,
            lowerMaximumSecurityTo=newest,
        )
        peer = self.peer(tls=options, EHLO=OFFER, STARTTLS="220 go")
        peer.listening.factory.protocol = Noting
        peer.resumed = []
        return peer

    async def three(self) -> None:
        """Three messages, each in a connection of its own."""
        for _ in range(3):
            await self.one()
            self.agent.destinations.close()
            while self.agent.dialler.sessions:
                await self.pause()

    async def test_the_next_connection_resumes(self) -> None:
        for newest in (TLSVersion.TLSv1_3, TLSVersion.TLSv1_2):
            peer = self.ticketing(newest)
            await self.three()
            assert peer.resumed == [False, True, True]

    async def test_where_nobody_is_verified_encryption_may_be_demanded(self) -> None:
        self.demanding.security = ENCRYPTED
        peer = self.ticketing()
        await self.three()
        assert peer.resumed == [False, True, True]

    async def test_whoever_must_be_verified_shows_the_certificate_each_time(self) -> None:
        for security in (BY_DANE, BY_STS, TESTING):
            self.demanding.security = security
            peer = self.ticketing()
            await self.three()
            assert peer.resumed == [False, False, False], security
            assert all(reached and reached.verified_by for reached, _ in self.demanding.seen)

    async def test_what_was_not_verified_never_helps_who_must_be(self) -> None:
        peer = self.ticketing()
        await self.three()
        self.demanding.security = BY_DANE
        await self.three()
        self.demanding.security = Security()
        await self.three()
        assert peer.resumed == [False, True, True, False, False, False, True, True, True]

    async def test_a_host_that_stumbles_over_its_own_tickets_is_not_spoken_to_in_clear(self) -> None:
        peer = self.ticketing()
        await self.three()
        (kept,) = self.agent.dialler._tls._sessions._kept.values()
        assert kept
        cuts = iter([True, False, False])

        class Stumbling(Noting):
            def answer(self, verb: str, line: str) -> None:
                if verb == "STARTTLS" and next(cuts):
                    self.transport.write(b"220 go\r\n")
                    reactor.callLater(0.02, self.transport.abortConnection)
                else:
                    super().answer(verb, line)

        peer.listening.factory.protocol = Stumbling
        peer.resumed.clear()
        connections = peer.connections
        await self.one()
        self.agent.destinations.close()
        assert peer.connections == connections + 2
        await self.one()
        assert peer.resumed == [False, False]
        assert [reached is not None for reached, _ in self.demanding.seen] == [True] * 5
