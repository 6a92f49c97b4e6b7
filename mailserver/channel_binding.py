"""What ties a log-in to the TLS connection that it came by: channel bindings (RFC 5929, RFC 9266)."""

from __future__ import annotations

import hashlib
from typing import Any

_WEAK = {"md5", "sha1"}
"""Hashes of signatures in whose place SHA-256 is used (RFC 5929 §4.1)."""


def channel_binding(connection: Any, kind: str) -> bytes | None:
    """The octets of a kind of channel binding at the server's end of a TLS connection.

    ``connection`` is an ``OpenSSL.SSL.Connection`` whose handshake is over.  ``None``: the kind is
    not known, or not to be trusted on this version of TLS: ``tls-exporter`` needs TLS 1.3, or an
    extension of 1.2 that cannot be asked for here (RFC 9266 §4.2).
    """
    if kind == "tls-exporter" and connection.get_protocol_version_name() == "TLSv1.3":
        octets: bytes = connection.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
        return octets
    if kind == "tls-server-end-point":
        return _end_point(connection.get_certificate())
    return None


def _end_point(certificate: Any) -> bytes | None:
    """The hash of the certificate that the server has shown (RFC 5929 §4.1)."""
    if certificate is None:
        return None
    from cryptography.hazmat.primitives.serialization import Encoding

    ours = certificate.to_cryptography()
    signed_by = ours.signature_hash_algorithm
    if signed_by is None:
        return None  # Ed25519, for one: RFC 5929 does not say which hash
    name = "sha256" if signed_by.name in _WEAK else signed_by.name
    return hashlib.new(name, ours.public_bytes(Encoding.DER)).digest()
