"""DANE for SMTP: TLSA records looked up, and compared with a host's certificates (RFC 7672, RFC 7671)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import crypto

from mailserver.interfaces import LookupDelayed
from mailserver.relay.certificate_names import is_for_one_of
from mailserver.relay.protection import TLSA, Mismatch
from mailserver.relay.resolver import NameNotFound, Resolver

DANE_TA, DANE_EE = 2, 3
"""Usages; 0 and 1 need CAs, which SMTP does not agree on, and are unusable (RFC 7672 §3.1.3)."""
WHOLE_CERTIFICATE, PUBLIC_KEY = 0, 1
"""Selectors."""
EXACT, SHA_256, SHA_512 = 0, 1, 2
"""Matching types."""
_DIGEST_OCTETS = {SHA_256: 32, SHA_512: 64}
MOST_RECORDS = 64
"""Records of one host that are looked at; nobody has so many, and each may cost a comparison."""

_VERSION = 0xA0  # the tag of a certificate's version
_EXPIRED = frozenset({9, 10})  # X509_V_ERR_CERT_NOT_YET_VALID, …_HAS_EXPIRED


class NoAnswer(Exception):
    """It could not be learnt whether there are TLSA records: mail must wait (RFC 7672 §2.1)."""


async def tlsa_records(resolver: Resolver, base_domain: str, port: int) -> tuple[TLSA, ...]:
    """All authentic records of a host, usable or not; none also where the answer is not authentic.

    Raises:
        NoAnswer: SERVFAIL, which is also how a validating resolver says "bogus", or no answer.
    """
    try:
        answer, authentic = await resolver.lookup_authentic(f"_{port}._tcp.{base_domain}", "TLSA")
    except NameNotFound:
        return ()
    except LookupDelayed as error:
        raise NoAnswer(str(error)) from None
    if not authentic or answer.rrset is None:
        return ()
    records = [TLSA(r.usage, r.selector, r.mtype, bytes(r.cert)) for r in answer.rrset]
    return tuple(sorted(records, key=str)[:MOST_RECORDS])


def usable(records: Iterable[TLSA]) -> tuple[TLSA, ...]:
    """Those that can be compared with something, of every digest only the strongest (RFC 7671 §9)."""
    fit = [record for record in records if _is_usable(record)]
    strongest: dict[tuple[int, int], int] = {}
    for record in fit:
        key = (record.usage, record.selector)
        strongest[key] = max(strongest.get(key, EXACT), record.matching)
    return tuple(
        record for record in fit if record.matching in (EXACT, strongest[record.usage, record.selector])
    )


def _is_usable(record: TLSA) -> bool:
    if record.usage not in (DANE_TA, DANE_EE) or record.selector not in (WHOLE_CERTIFICATE, PUBLIC_KEY):
        return False
    if record.matching == EXACT:
        return bool(record.association)
    return len(record.association) == _DIGEST_OCTETS.get(record.matching, -1)


def mismatch(
    records: Iterable[TLSA], names: tuple[str, ...], chain: Sequence[x509.Certificate]
) -> Mismatch | None:
    """``None`` when one of the usable ``records`` vouches for ``chain`` (the host's own certificate
    first); else what is wrong. ``names`` are those that a DANE-TA certificate may be for."""
    found: Mismatch | None = None
    for record in records:
        if record.usage == DANE_EE:
            # The record binds the key itself: neither names nor dates matter (RFC 7672 §3.1.1).
            if matches(record, chain[0]):
                return None
            continue
        for anchor in chain:
            if matches(record, anchor):
                wrong = _path_trouble(chain, anchor) or _name_trouble(chain[0], names)
                if wrong is None:
                    return None
                found = wrong
    return found or Mismatch("validation-failure", "the host's certificates match none of its TLSA records")


def matches(record: TLSA, certificate: x509.Certificate) -> bool:
    """Whether a usable record is about this certificate (RFC 6698 §2.1)."""
    if record.selector == WHOLE_CERTIFICATE:
        octets = certificate.public_bytes(Encoding.DER)
    else:
        octets = _public_key_info(certificate)
    if record.matching == SHA_256:
        octets = hashlib.sha256(octets).digest()
    elif record.matching == SHA_512:
        octets = hashlib.sha512(octets).digest()
    return octets == record.association


def _public_key_info(certificate: x509.Certificate) -> bytes:
    """SubjectPublicKeyInfo as it stands in the certificate (RFC 5280 §4.1), also where ``cryptography`` does
    not know the key's algorithm."""
    octets = certificate.tbs_certificate_bytes
    start, _ = _value(octets, 0)
    # Version (which may be left out), serial number, signature, issuer, validity, subject.
    for _ in range(6 if octets[start] == _VERSION else 5):
        _, start = _value(octets, start)
    return octets[start : _value(octets, start)[1]]


def _value(octets: bytes, at: int) -> tuple[int, int]:
    """Where the value of the DER element at ``at`` begins and ends (X.690 §8.1.3)."""
    length, begin = octets[at + 1], at + 2
    if length & 0x80:
        begin += length & 0x7F
        length = int.from_bytes(octets[at + 2 : begin])
    return begin, begin + length


def _path_trouble(chain: Sequence[x509.Certificate], anchor: x509.Certificate) -> Mismatch | None:
    """Whether ``anchor`` has really issued the host's certificate, at every step and today."""
    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(anchor))
    # The anchor need not be a root (RFC 7671 §5.2).
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    wrapped = [crypto.X509.from_cryptography(certificate) for certificate in chain]
    try:
        crypto.X509StoreContext(store, wrapped[0], wrapped[1:]).verify_certificate()
    except crypto.X509StoreContextError as error:
        kind = "certificate-expired" if error.errors[0] in _EXPIRED else "certificate-not-trusted"
        return Mismatch(kind, f"the host's certificate does not come from its TLSA record's: {error}")
    return None


def _name_trouble(certificate: x509.Certificate, names: tuple[str, ...]) -> Mismatch | None:
    if is_for_one_of(certificate, names):
        return None
    return Mismatch("certificate-host-mismatch", f"the host's certificate is not for {' or '.join(names)}")
