"""The key that signs reports to other domains, and what DNS must say of it (RFC 6376, RFC 8460)."""

from __future__ import annotations

import errno
import secrets
from base64 import b64encode
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from mailserver.durable import Disk

FILE_NAME = "reports.key"
"""The key's file in the state folder."""
SELECTOR = "tlsrpt"
"""Where in DNS the public half is looked for: ``tlsrpt._domainkey.DOMAIN``."""
_BITS = 2048
_STRING = 255
"""Octets of one string in a TXT record (RFC 1035 §3.3)."""


class ReportKey:
    """An RSA key in a file (PEM, mode 0600), made by whoever needs it first. Opens nothing before that."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self._path = path
        self._disk = disk
        self._key: rsa.RSAPrivateKey | None = None

    def sign(self, octets: bytes) -> bytes:
        """The signature that ``wire/dkim.py`` asks for. Blocks; the first time it reads or makes the key.

        Raises:
            OSError: the file cannot be read or made, or holds something else.
        """
        return self._open().sign(octets, padding.PKCS1v15(), hashes.SHA256())

    def record(self) -> str:
        """The TXT record at ``SELECTOR``, as zone files write it. Blocks and raises as ``sign``.

        Without ``s=`` the key is for every service (RFC 6376 §3.6.1), ``tlsrpt`` among them. ``s=tlsrpt``,
        which RFC 8460 §3 would rather see, makes verifiers that know of no reports refuse the signature, and
        a list of both breaks others.
        """
        text = f"v=DKIM1; k=rsa; p={self.public()}"
        return " ".join([f'"{text[start : start + _STRING]}"' for start in range(0, len(text), _STRING)])

    def public(self) -> str:
        """The public half, as ``p=`` has it. Blocks and raises as ``sign``."""
        public = self._open().public_key()
        return b64encode(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode("ascii")

    def _open(self) -> rsa.RSAPrivateKey:
        while self._key is None:
            try:
                octets = self._path.read_bytes()
            except FileNotFoundError:
                self._make()
            else:
                self._key = self._loaded(octets)
        return self._key

    def _loaded(self, octets: bytes) -> rsa.RSAPrivateKey:
        try:
            key = load_pem_private_key(octets, None)
        except (ValueError, TypeError) as error:
            raise OSError(
                errno.EINVAL, f"holds no key ({error}); restore it, or remove it", self._name
            ) from None
        if not isinstance(key, rsa.RSAPrivateKey):
            raise OSError(errno.EINVAL, "holds no RSA key; restore it, or remove it", self._name)
        return key

    @property
    def _name(self) -> str:
        return str(self._path)

    def _make(self) -> None:
        """A whole file under its name, or none: of several makers the first wins."""
        key = rsa.generate_private_key(65537, _BITS)
        octets = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self._disk.make_folder(self._path.parent)
        beside = self._path.with_name(f"{self._path.name}.{secrets.token_hex(4)}")
        self._disk.write(beside, [octets])
        try:
            self._disk.sync_file(beside)
            self._disk.link(beside, self._path)
        except FileExistsError:
            pass
        finally:
            self._disk.remove(beside)
        self._disk.sync_folder(self._path.parent)
