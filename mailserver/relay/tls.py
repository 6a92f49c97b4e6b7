"""Opportunistic TLS for outgoing sessions: a name is sent, nothing is verified (RFC 7435)."""

from __future__ import annotations

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.internet.ssl import CertificateOptions
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from mailserver.values.address import domain_key


@implementer(IOpenSSLClientConnectionCreator)
class _ToHost:
    def __init__(self, context: SSL.Context, server_name: bytes) -> None:
        self._context = context
        self._server_name = server_name

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        connection = SSL.Connection(self._context, None)
        if self._server_name:
            connection.set_tlsext_host_name(self._server_name)
        return connection


class OpportunisticTLS:
    """Client TLS, 1.2 or newer, that hides mail from listeners and trusts any certificate."""

    def __init__(self) -> None:
        self._options = CertificateOptions()

    def to(self, host: str) -> IOpenSSLClientConnectionCreator:
        """How to shake hands with ``host``; an address is not sent as a name (RFC 6066 §3)."""
        is_name = not host.startswith("[") and ":" not in host and not host.replace(".", "").isdigit()
        name = domain_key(host).encode("ascii", "ignore") if is_name else b""
        return _ToHost(self._options.getContext(), name)
