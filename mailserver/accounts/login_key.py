"""The key beside the accounts: what a stolen table of accounts lacks. One file, ``state/login.key``."""

from __future__ import annotations

import base64
import binascii
import errno
import hmac
import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FILE_NAME = "login.key"
"""The key's file in the state folder."""

_OCTETS = 32
_NONCE_OCTETS = 12


class LoginKey:
    """Random octets in a file (0600), made by whoever needs them first. Opens nothing before ``open``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key = b""

    def open(self) -> None:
        """Read the key, making it when it is absent.

        Raises:
            OSError: the file cannot be read or made, or holds something else.
        """
        if self._key:
            return
        while not (key := self._read()):
            self._make()
        self._key = key

    def derive(self, purpose: str) -> bytes:
        """32 octets for one purpose, which tell nothing of those for others."""
        self.open()
        return hmac.digest(self._key, purpose.encode(), "sha256")

    def seal(self, password: str) -> str:
        """The password in a form that only ``unseal`` with the same key reads."""
        nonce = secrets.token_bytes(_NONCE_OCTETS)
        return base64.b64encode(nonce + self._cipher().encrypt(nonce, password.encode(), None)).decode()

    def unseal(self, text: str) -> str | None:
        """What was sealed; ``None`` when nothing was, or with another key."""
        try:
            octets = base64.b64decode(text, validate=True)
            return self._cipher().decrypt(octets[:_NONCE_OCTETS], octets[_NONCE_OCTETS:], None).decode()
        except (InvalidTag, ValueError, binascii.Error):
            return None

    def _cipher(self) -> AESGCM:
        return AESGCM(self.derive("cram-md5"))

    def _read(self) -> bytes:
        try:
            octets = self._path.read_bytes()
        except FileNotFoundError:
            return b""
        if len(octets) != _OCTETS:
            reason = f"has {len(octets)} octets instead of {_OCTETS}; restore it, or remove it"
            raise OSError(errno.EINVAL, reason, str(self._path))
        return octets

    def _make(self) -> None:
        """A whole file under its name, or none: the first of several makers wins."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self._path.with_name(f"{FILE_NAME}.{secrets.token_hex(8)}")
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, secrets.token_bytes(_OCTETS))
            os.fsync(fd)
        finally:
            os.close(fd)
        try:
            os.link(fresh, self._path)
        except FileExistsError:
            pass
        finally:
            os.unlink(fresh)
