"""SCRAM, the client's side: for a next hop that asks for it (RFC 5802)."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable

from mailserver.wire.sasl import SaslError
from mailserver.wire.sasl_scram import HASHES, _base64, _octets

MOST_ITERATIONS = 10_000_000
"""A server that asks for more wants to keep us busy."""


class ScramClient:
    """One exchange. ``binding`` is the kind and the octets of a channel binding, for ``-PLUS``."""

    def __init__(
        self,
        mechanism: str,
        username: str,
        password: str,
        binding: tuple[str, bytes] | None = None,
        nonce: Callable[[], str] = lambda: secrets.token_urlsafe(18),
    ) -> None:
        self._hash = HASHES[mechanism.removesuffix("-PLUS")]
        self._password = password
        self._nonce = nonce()
        self._header = f"p={binding[0]},,".encode() if binding else b"n,,"
        self._bound = self._header + (binding[1] if binding else b"")
        name = username.replace("=", "=3D").replace(",", "=2C")
        self._bare = f"n={name},r={self._nonce}"
        self._signature = b""

    def first(self) -> bytes:
        """The client-first-message, which may be the initial response."""
        return self._header + self._bare.encode()

    def final(self, challenge: bytes) -> bytes:
        """The client-final-message. Takes as long as the server's iterations take.

        Raises:
            SaslError: the challenge is none, or asks for too little or too much.
        """
        parts = dict(part.partition("=")[::2] for part in challenge.decode("utf-8", "replace").split(","))
        nonce, salt, iterations = parts.get("r", ""), _octets(parts.get("s", "")), parts.get("i", "")
        if not nonce.startswith(self._nonce) or len(nonce) == len(self._nonce) or "m" in parts:
            raise SaslError("The server's nonce does not continue ours")
        if not iterations.isdigit() or not 4096 <= int(iterations[:12]) <= MOST_ITERATIONS or not salt:
            raise SaslError("The server asks for an unfit number of iterations")
        salted = hashlib.pbkdf2_hmac(self._hash, self._password.encode(), salt, int(iterations))
        client_key = hmac.digest(salted, b"Client Key", self._hash)
        without_proof = f"c={_base64(self._bound)},r={nonce}"
        message = f"{self._bare},".encode() + challenge + f",{without_proof}".encode()
        signature = hmac.digest(hashlib.new(self._hash, client_key).digest(), message, self._hash)
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        server_key = hmac.digest(salted, b"Server Key", self._hash)
        self._signature = hmac.digest(server_key, message, self._hash)
        return f"{without_proof},p={_base64(proof)}".encode()

    def verify(self, challenge: bytes) -> bytes:
        """Check that the server knows the verifier too; the empty response that follows.

        Raises:
            SaslError: it does not.
        """
        said = challenge.decode("utf-8", "replace").partition(",")[0]
        if not said.startswith("v=") or not hmac.compare_digest(_octets(said[2:]), self._signature):
            raise SaslError("The server could not prove that it knows the password's verifier")
        return b""
