"""Certificates for tests: an authority of our own, and hosts with good and bad ones."""

from __future__ import annotations

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import crypto
from twisted.internet.ssl import CertificateOptions

Key = ec.EllipticCurvePrivateKey
DAY = datetime.timedelta(days=1)


@dataclass
class Identity:
    """A certificate with its key, and the chain that goes with it (its issuers, nearest first)."""

    certificate: x509.Certificate
    key: Key
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def pem(self) -> bytes:
        return b"".join(c.public_bytes(Encoding.PEM) for c in (self.certificate, *self.chain))

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def options(self) -> Any:
        """A server's side."""
        return CertificateOptions(
            privateKey=crypto.PKey.from_cryptography_key(self.key),
            certificate=crypto.X509.from_cryptography(self.certificate),
            extraCertChain=[crypto.X509.from_cryptography(c) for c in self.chain],
        )

    def write(self, folder: Path) -> tuple[Path, Path]:
        """``cert.pem`` and ``key.pem`` in ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        certificate, key = folder / "cert.pem", folder / "key.pem"
        certificate.write_bytes(self.pem)
        key.write_bytes(self.key_pem)
        return certificate, key


class Authority:
    """A CA; ``issue`` makes hosts, ``intermediate`` another CA under it."""

    def __init__(self, name: str = "Test Authority", parent: Authority | None = None) -> None:
        self.parent = parent
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = _name(name)
        issuer = parent or self
        builder = _builder(self.name, issuer.name, self.key, -DAY * 30, DAY * 3650)
        builder = builder.add_extension(x509.BasicConstraints(True, None), True)
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        self.certificate = builder.add_extension(usage, True).sign(issuer.key, hashes.SHA256())

    def intermediate(self, name: str = "Test Intermediate") -> Authority:
        return Authority(name, self)

    def issue(self, *names: str, expired: bool = False, root: bool = False) -> Identity:
        """For hosts ``names``; ``root`` puts the root itself into the chain too."""
        key = ec.generate_private_key(ec.SECP256R1())
        end = -DAY if expired else DAY * 90
        builder = _builder(_name(names[0] if names else "nobody"), self.name, key, -DAY * 20, end)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_general(n) for n in names]), False)
        builder = builder.add_extension(x509.BasicConstraints(False, None), True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        chain: list[x509.Certificate] = []
        above: Authority | None = self
        while above is not None and (above.parent is not None or root):
            chain.append(above.certificate)
            above = above.parent
        return Identity(builder.sign(self.key, hashes.SHA256()), key, tuple(chain))

    def write(self, folder: Path) -> Path:
        """The CA's own certificate in a file."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "authorities.pem"
        path.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        return path


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Key, begin: datetime.timedelta, end: datetime.timedelta
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + begin)
        .not_valid_after(now + end)
    )
