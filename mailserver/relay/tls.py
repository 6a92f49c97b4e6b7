"""Client TLS of outgoing sessions: one handshake for each, and what it proves about the host.

OpenSSL never ends a handshake because of a certificate here: what it finds is kept and judged when
the handshake is done, before a command is sent, so that every kind of policy is judged in one place
and a TLS report can tell what was wrong.
"""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import CertificateOptions
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from mailserver.relay import dane
from mailserver.relay.certificate_names import is_for_one_of
from mailserver.relay.protection import DANE, OPPORTUNISTIC, Level, Mismatch, Protection, Security
from mailserver.relay.sessions import Target
from mailserver.relay.tls_sessions import Place, TLSSessions
from mailserver.values.address import domain_key

_EXPIRED = frozenset({9, 10})
"""X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED."""
_NOT_TRUSTED = frozenset({2, 18, 19, 20, 21, 27, 28})
"""No path to a root that we trust."""
_CHAIN_ERRORS = {
    9: "it is not yet valid",
    10: "it has expired",
    18: "it is self-signed",
    19: "its chain ends in a root that is not trusted",
    20: "its issuer is not known",
    21: "its chain is incomplete",
    26: "it is not for servers",
}


class ClientTLS:
    """TLS 1.2 or newer towards other servers. Contexts are made at their first use."""

    def __init__(self, authorities: Path | None = None) -> None:
        """``authorities`` is a PEM file of the CAs to trust; ``None`` for the system's."""
        self._authorities = authorities
        self._plain: SSL.Context | None = None
        self._checking: SSL.Context | None = None
        self._sessions = TLSSessions()

    def handshake(
        self, host: str, security: Security = OPPORTUNISTIC, target: Target | None = None
    ) -> Handshake:
        """For one session with ``host``. With its ``target`` it may resume an earlier one, and be resumed,
        where nothing is asked of the host's certificate: a resumed handshake shows none.

        Raises:
            OSError, SSL.Error: the file of authorities cannot be used.
        """
        needs_authority = bool(security.by or security.watched) and security.by != DANE
        if needs_authority:
            return Handshake(self.checking_context(), host, security)
        if self._plain is None:
            self._plain = CertificateOptions(enableSessionTickets=True).getContext()
        if target is None or security.by or security.watched:
            return Handshake(self._plain, host, security)
        place = Place(host, target.address, target.port, security.level)
        return Handshake(self._plain, host, security, _Resumption(self._sessions, place))

    def checking_context(self) -> SSL.Context:
        """A context that knows the authorities. Raises as ``handshake``."""
        if self._checking is None:
            context = CertificateOptions().getContext()
            if self._authorities is None:
                context.set_default_verify_paths()
            else:
                self._authorities.open("rb").close()  # a clear OSError instead of OpenSSL's
                context.load_verify_locations(str(self._authorities))
            self._checking = context
        return self._checking


class _Resumption:
    """One handshake's part in the sessions that are kept."""

    def __init__(self, sessions: TLSSessions, place: Place) -> None:
        self._sessions = sessions
        self._place = place
        self.is_offered = False

    def offer(self, connection: SSL.Connection) -> None:
        session = self._sessions.take(self._place)
        if session is not None:
            connection.set_session(session)
            self.is_offered = True

    def keep(self, connection: SSL.Connection) -> None:
        session = connection.get_session()
        if session is not None:
            self._sessions.keep(self._place, session)

    def give_up(self) -> bool:
        if self.is_offered:
            self._sessions.give_up(self._place)
        return self.is_offered


@implementer(IOpenSSLClientConnectionCreator)
class Handshake:
    """One session's TLS: what it must reach (``security``), and afterwards ``reached``, or
    ``mismatch`` when that is not what ``security`` asks for."""

    def __init__(
        self, context: SSL.Context, host: str, security: Security, resumption: _Resumption | None = None
    ) -> None:
        self.security = security
        self.reached: Protection | None = None
        self.mismatch: Mismatch | None = None
        self.chain_error = 0
        """The first error in the chain, an X509_V_ERR number; 0: none."""
        self._context = context
        self._host = host
        self._resumption = resumption

    @property
    def required(self) -> bool:
        """Whether the session is of no use without TLS."""
        return self.security.level >= Level.ENCRYPTED

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        if self.security.by not in ("", DANE):
            # Whatever it finds, the handshake goes on.
            connection.set_verify(SSL.VERIFY_PEER, self._note_trouble)
        if name := _server_name(self._name):
            connection.set_tlsext_host_name(name)
        if self._resumption is not None:
            self._resumption.offer(connection)
        return connection

    @property
    def _name(self) -> str:
        """Whose certificate we want to see: under DANE that of the name that the records are at (RFC 7672
        §8.1), which is the first of ``names``."""
        security = self.security
        return security.names[0] if security.by == DANE and security.names else self._host

    def _note_trouble(
        self, connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, good: int
    ) -> bool:
        """OpenSSL's word on one certificate of the chain; the first that is bad is kept."""
        if not good and not self.chain_error:
            self.chain_error = error
        return True

    def completed(self, connection: SSL.Connection) -> bool:
        """Judge a finished handshake: whether the session may go on."""
        verified_by = ""
        if self.security.by:
            self.mismatch = self._judge(connection)
            if self.mismatch is None:
                verified_by = self.security.by
        self.reached = Protection(
            connection.get_protocol_version_name(), connection.get_cipher_name() or "?", verified_by
        )
        return self.mismatch is None or self.security.watched

    def keep_session(self, connection: SSL.Connection) -> None:
        """The host has answered in the protected session, and so has sent its tickets (RFC 8446 §4.6.1)."""
        if self._resumption is not None:
            self._resumption.keep(connection)

    def give_up_resuming(self) -> bool:
        """Offer no session to this host again; whether one was offered in this handshake."""
        return self._resumption is not None and self._resumption.give_up()

    def broken(self, reason: str) -> None:
        """The handshake was never finished."""
        self.mismatch = Mismatch("validation-failure", reason)

    def not_offered(self, reason: str) -> None:
        """The host does not do STARTTLS, or not now."""
        self.mismatch = Mismatch("starttls-not-supported", reason)

    def _judge(self, connection: SSL.Connection) -> Mismatch | None:
        try:
            chain = [c.to_cryptography() for c in connection.get_peer_cert_chain() or ()]
            if not chain:
                return Mismatch("certificate-not-trusted", "the host has no certificate")
            if self.security.by == DANE:
                return dane.mismatch(self.security.tlsa, self.security.names, chain)
            return self._judge_by_authority(chain[0])
        except Exception as error:
            # Octets that OpenSSL takes for a certificate and cryptography does not: whatever it raises, the
            # host has not shown who it is.
            return Mismatch("validation-failure", f"the host's certificate is malformed: {error}")

    def _judge_by_authority(self, certificate: x509.Certificate) -> Mismatch | None:
        if self.chain_error:
            error = self.chain_error
            kind = (
                "certificate-expired"
                if error in _EXPIRED
                else "certificate-not-trusted"
                if error in _NOT_TRUSTED
                else "validation-failure"
            )
            words = _CHAIN_ERRORS.get(error, f"verification error {error}")
            return Mismatch(kind, f"the host's certificate is not valid: {words}")
        if not is_for_one_of(certificate, self.security.names):
            names = " or ".join(self.security.names)
            return Mismatch("certificate-host-mismatch", f"the host's certificate is not for {names}")
        return None


def _server_name(host: str) -> bytes:
    """What SNI says; an address is not sent as a name (RFC 6066 §3)."""
    is_name = not host.startswith("[") and ":" not in host and not host.replace(".", "").isdigit()
    return domain_key(host).encode("ascii", "ignore") if is_name else b""


class VerifiedTLS(ClientTLS):
    """TLS that fails in the handshake unless the host's certificate is valid and for its name.

    Twisted's ``optionsForClientTLS`` lets a certificate pass whose names it cannot parse (26.10).
    """

    def to(self, host: str) -> IOpenSSLClientConnectionCreator:
        """How to shake hands with ``host``. Raises as ``handshake``."""
        return _Verified(self.checking_context(), host)


@implementer(IOpenSSLClientConnectionCreator)
class _Verified:
    def __init__(self, context: SSL.Context, host: str) -> None:
        self._context = context
        self._host = host

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        if name := _server_name(self._host):
            connection.set_tlsext_host_name(name)
        connection.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._is_good)
        return connection

    def _is_good(
        self, connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, good: int
    ) -> bool:
        """OpenSSL's own word, and for the host's certificate its name too."""
        if depth or not good:
            return bool(good)
        try:
            return is_for_one_of(certificate.to_cryptography(), (self._host,))
        except ValueError:
            return False
