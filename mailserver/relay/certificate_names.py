"""Whether a certificate is for a host: the names in it against those we came for (RFC 6125)."""

from __future__ import annotations

import service_identity.cryptography as service_identity
from cryptography import x509
from service_identity import CertificateError, VerificationError

from mailserver.values.address import domain_key


def is_for_one_of(certificate: x509.Certificate, names: tuple[str, ...]) -> bool:
    """Whether a subjectAltName of the certificate is one of ``names``, where ``*`` may stand for its
    whole first label (RFC 6125 §6.4, RFC 7672 §3.2.3, RFC 8461 §4.1); a common name counts nothing."""
    for name in names:
        try:
            service_identity.verify_certificate_hostname(certificate, domain_key(name))
        except (VerificationError, CertificateError, ValueError):
            continue
        return True
    return False
