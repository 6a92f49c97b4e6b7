"""STARTTLS towards servers that do it well, badly, not at all, or with something slipped in."""

import datetime
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.ssl import CertificateOptions

from mailserver.interfaces import Exchange
from mailserver.relay.protection import DANE, TLSA, Level, Security
from mailserver.relay.tls import ClientTLS
from mailserver.values.outcome import Delayed, Relayed

from .authority import Authority, Identity
from .peers import DROP, SILENT, Peer, PeerSession
from .test_agent import AgentCase

OFFER = "250-peer\r\n250-PIPELINING\r\n250 STARTTLS"


@lru_cache
def self_signed() -> CertificateOptions:
    """A server's side: expired, and for nobody's name; opportunistic TLS takes it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nobody.test")])
    long_ago = datetime.datetime(2020, 1, 1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(long_ago)
        .not_valid_after(long_ago + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return CertificateOptions(
        privateKey=crypto.load_privatekey(crypto.FILETYPE_PEM, pem),
        certificate=crypto.X509.from_cryptography(certificate),
    )


class TLSTests(AgentCase):
    def secure(self, **more: Any) -> Peer:
        return self.peer(tls=self_signed(), **{"EHLO": OFFER, "STARTTLS": "220 go", **more})

    async def test_taken_up_where_offered_and_ehlo_again(self) -> None:
        peer = self.secure()
        assert isinstance(await self.one(), Relayed)
        assert [c.split()[0] for c in peer.commands[:4]] == ["EHLO", "STARTTLS", "EHLO", "MAIL"]
        assert peer.connections == 1
        assert isinstance(await self.one(), Relayed)
        assert peer.connections == 1

    async def test_extensions_from_before_tls_are_forgotten(self) -> None:
        said = iter([OFFER + "\r\n", "250-peer\r\n250 SIZE 1000"])
        peer = self.secure(EHLO=lambda line: next(said).strip())
        assert isinstance(await self.one(), Relayed)
        assert peer.said("MAIL")[0].startswith("MAIL FROM:<ada@a.test> SIZE=")

    async def test_a_broken_handshake_goes_on_in_clear(self) -> None:
        class Garbling(PeerSession):
            def answer(self, verb: str, line: str) -> None:
                super().answer(verb, line)
                if verb == "STARTTLS":
                    reactor.callLater(0.02, self.transport.write, b"500 what?\r\n")

        for reply in ("220 go", DROP):
            peer = self.peer(EHLO=OFFER, STARTTLS=reply)
            peer.listening.factory.protocol = Garbling
            assert isinstance(await self.one(), Relayed), reply
            assert peer.connections == 2
            assert len(peer.messages) == 1
            # And the next message does not try again at once.
            self.agent.destinations.close()
            assert isinstance(await self.one(), Relayed)
            assert peer.connections == 3
            assert len(peer.said("STARTTLS")) == 1

    async def test_a_server_without_a_certificate_is_used_in_clear(self) -> None:
        class WithoutCertificate:
            def getContext(self) -> SSL.Context:
                return SSL.Context(SSL.TLS_SERVER_METHOD)

        peer = self.peer(tls=WithoutCertificate(), EHLO=OFFER, STARTTLS="220 go")
        assert isinstance(await self.one(), Relayed)
        assert peer.connections == 2

    async def test_a_refused_starttls_goes_on_in_the_same_session(self) -> None:
        peer = self.peer(EHLO=OFFER, STARTTLS="454 4.7.0 not now")
        assert isinstance(await self.one(), Relayed)
        assert peer.connections == 1

    async def test_what_is_slipped_in_behind_the_220_is_never_read_as_secured(self) -> None:
        class Injecting(PeerSession):
            def answer(self, verb: str, line: str) -> None:
                if verb == "STARTTLS":
                    self.transport.write(b"220 go\r\n250-peer\r\n250 SIZE 1\r\n")
                else:
                    super().answer(verb, line)

        peer = Peer(EHLO=OFFER)
        peer.protocol = Injecting
        self.addCleanup(lambda: Deferred.fromCoroutine(peer.stop()))
        self.hosts["b.test"] = [Exchange("mx.b.test", peer.start(), ("127.0.0.1",))]
        outcome = await self.one()
        assert isinstance(outcome, Delayed)
        assert "STARTTLS" in outcome.diagnostic
        assert peer.said("MAIL") == []

    async def test_a_handshake_that_stalls_is_given_up(self) -> None:
        peer = self.peer(EHLO=OFFER, STARTTLS="220 go")
        peer.replies["STARTTLS"] = lambda line: "220 go" if peer.connections == 1 else SILENT

        class Deaf(PeerSession):
            def lineReceived(self, line: bytes) -> None:
                if self.peer.connections > 1 or b"\x16" not in line:
                    super().lineReceived(line)

            def lineLengthExceeded(self, line: bytes) -> None:
                pass

        peer.listening.factory.protocol = Deaf
        waiting = Deferred.fromCoroutine(self.one())
        while not peer.said("STARTTLS"):
            await self.pause()
        await self.pause()
        (session,) = self.agent.dialler.sessions
        session._deadline.move(0)
        assert isinstance(await waiting, Relayed)
        assert peer.connections == 2


def test_the_name_is_sent_and_addresses_are_not() -> None:
    tls = ClientTLS()
    for host, name in (
        ("mx.b.test", b"mx.b.test"),
        ("пошта.укр", b"xn--80a1acn3a.xn--j1amh"),
        ("[192.0.2.1]", None),
        ("192.0.2.1", None),
        ("::1", None),
    ):
        connection = tls.handshake(host).clientConnectionForTLS(None)
        assert connection.get_servername() == name, host
    by_dane = Security(Level.VERIFIED, DANE, ("canonical.b.test", "mx.b.test"))
    connection = tls.handshake("mx.b.test", by_dane).clientConnectionForTLS(None)
    assert connection.get_servername() == b"canonical.b.test"


def test_a_key_that_nobody_knows_is_a_mismatch_and_no_fault() -> None:
    # The issuer's key is of an algorithm without a name here; OpenSSL lets it pass unverified.
    identity = Authority().issue("mx.b.test", root=True)
    ec_key, unknown = bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06072a8648ce3d0263")
    strange = identity.chain[0].public_bytes(serialization.Encoding.DER).replace(ec_key, unknown)
    chain = [
        crypto.X509.from_cryptography(identity.certificate),
        crypto.X509.from_cryptography(x509.load_der_x509_certificate(strange)),
    ]

    class Connection:
        def get_peer_cert_chain(self) -> list[crypto.X509]:
            return chain

        def get_protocol_version_name(self) -> str:
            return "TLSv1.3"

        def get_cipher_name(self) -> str:
            return "TLS_AES_128_GCM_SHA256"

    key = ec_key_info(identity)
    for usage, good in ((2, False), (3, False), (3, True)):
        tlsa = TLSA(usage, 1, 0, key if good else bytes(32))
        security = Security(Level.VERIFIED, DANE, ("mx.b.test",), (tlsa,))
        handshake = ClientTLS().handshake("mx.b.test", security)
        connection: Any = Connection()
        assert handshake.completed(connection) is good
        assert (handshake.mismatch and handshake.mismatch.kind) == (None if good else "validation-failure")


def ec_key_info(identity: Identity) -> bytes:
    public = identity.certificate.public_key()
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def test_a_certificate_that_makes_a_library_fail_proves_nothing() -> None:
    class Broken:
        def get_peer_cert_chain(self) -> Any:
            raise RuntimeError("a certificate that nobody foresaw")

        get_protocol_version_name = get_cipher_name = str

    handshake = ClientTLS().handshake("mx.b.test", Security(Level.VERIFIED, DANE, ("mx.b.test",)))
    connection: Any = Broken()
    assert not handshake.completed(connection)
    assert handshake.mismatch is not None
