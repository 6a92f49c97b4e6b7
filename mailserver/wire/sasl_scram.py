"""SCRAM, the server's side: proofs of a password that neither side shows (RFC 5802, RFC 7677).

A verifier stands in the password's place.  Whoever steals it can check guesses, but not log in: the
proof needs ``ClientKey``, and only its hash is kept.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from mailserver.wire.sasl import MAX_NAME_OCTETS, AuthorizationRefused, Challenge, SaslError

ITERATIONS = 100_000
"""Rounds of PBKDF2 in new verifiers. RFC 7677 §4 asks for 4,096 at least; each makes a guess at a
stolen verifier dearer, and a client's log-in too (about 50 ms, a second in an interpreted language)."""

SALT_OCTETS = 16
MAX_MESSAGE_OCTETS = 4096
"""A client's message; RFC 5802 sets no limit."""

HASHES = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-1": "sha1"}
"""The hash of each family of mechanisms, by the name without ``-PLUS``."""

_NONCE_OCTETS = 18


@dataclass(frozen=True, slots=True)
class ScramVerifier:
    """What is kept instead of a password (RFC 5802 §3, RFC 5803)."""

    iterations: int
    salt: bytes
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    @classmethod
    def of(cls, password: str, salt: bytes, iterations: int, mechanism: str) -> ScramVerifier:
        """The verifier of a password, which is already normalised. Takes about 50 ms."""
        name = HASHES[mechanism]
        salted = hashlib.pbkdf2_hmac(name, password.encode(), salt, iterations)
        client_key = hmac.digest(salted, b"Client Key", name)
        return cls(
            iterations, salt, hashlib.new(name, client_key).digest(), hmac.digest(salted, b"Server Key", name)
        )

    @classmethod
    def read(cls, text: str) -> ScramVerifier:
        """What ``str`` has written.

        Raises:
            ValueError: something else.
        """
        _, parameters, keys = text.split("$")
        iterations, salt = parameters.split(":")
        stored, server = keys.split(":")
        octets = (base64.b64decode(part, validate=True) for part in (salt, stored, server))
        return cls(int(iterations), *octets)

    def text(self, mechanism: str) -> str:
        """``SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey``, as RFC 5803 §2 writes it."""
        salt, stored, server = (_base64(part) for part in (self.salt, self.stored_key, self.server_key))
        return f"{mechanism}${self.iterations}:{salt}${stored}:{server}"


@dataclass(frozen=True, slots=True)
class ScramProof:
    """A client's proof, which is still to be checked. ``mechanism`` is without ``-PLUS``."""

    username: str
    mechanism: str
    proof: bytes = field(repr=False)
    message: bytes = field(repr=False)

    def fits(self, verifier: ScramVerifier) -> bool:
        """Whether it could only be made by somebody who knows the password (RFC 5802 §3)."""
        name = HASHES[self.mechanism]
        signature = hmac.digest(verifier.stored_key, self.message, name)
        if len(self.proof) != len(signature):
            return False
        client_key = bytes(a ^ b for a, b in zip(self.proof, signature, strict=True))
        return hmac.compare_digest(hashlib.new(name, client_key).digest(), verifier.stored_key)


def _fresh_nonce() -> str:
    return secrets.token_urlsafe(_NONCE_OCTETS)


class Scram:
    """One exchange of ``SCRAM-SHA-256``, ``SCRAM-SHA-256-PLUS`` or ``SCRAM-SHA-1``.

    ``verifier`` gives the verifier of a name, one that fits nothing where there is no such user;
    ``binding`` gives the octets of a kind of channel binding (RFC 5929, RFC 9266), ``None`` where
    there are none.  ``plus_offered`` tells that the client could have chosen the ``-PLUS`` of this
    mechanism: one that says it could not has been lied to (RFC 5802 §6).
    """

    def __init__(
        self,
        name: str,
        verifier: Callable[[str, str], ScramVerifier],
        binding: Callable[[str], bytes | None],
        plus_offered: bool,
        nonce: Callable[[], str] = _fresh_nonce,
    ) -> None:
        self._mechanism = name.removesuffix("-PLUS")
        self._plus = name.endswith("-PLUS")
        self._plus_offered = plus_offered
        self._verifier_of = verifier
        self._binding = binding
        self._fresh = nonce
        self._asked = False
        self._verifier: ScramVerifier | None = None
        self._proof: ScramProof | None = None
        self._username = self._nonce = ""
        self._bound = self._so_far = b""

    def step(self, response: bytes | None) -> Challenge | ScramProof:
        """Take the client's first or final message."""
        if response is None and not self._asked:
            self._asked = True
            return Challenge(b"")
        if self._proof is not None:
            raise SaslError("SCRAM has two messages only")
        text = _decoded(response or b"")
        return self._first(text) if self._verifier is None else self._final(text)

    def accepted(self) -> Challenge:
        """Our own proof: the server knows the verifier (RFC 5802 §7, server-final-message)."""
        assert self._verifier is not None
        assert self._proof is not None
        signature = hmac.digest(self._verifier.server_key, self._proof.message, HASHES[self._mechanism])
        return Challenge(f"v={_base64(signature)}".encode())

    def refused(self) -> None:
        """Nothing more is said: ``e=`` would tell no more than the refusal does."""

    def _first(self, text: str) -> Challenge:
        flag, authorization, bare = _split(text, 2)
        self._bound = f"{flag},{authorization},".encode() + self._channel(flag)
        name, client_nonce = _split(bare, 1)
        if name.startswith("m="):
            raise SaslError("A mandatory extension that is not known here")
        self._username = _name(_attribute(name, "n"))
        # Some clients send an empty a= where they mean none.
        whom = _attribute(authorization, "a") if authorization else ""
        if whom and _name(whom) != self._username:
            raise AuthorizationRefused("Acting as another user is not allowed")
        client_nonce = _attribute(client_nonce.partition(",")[0], "r")
        if not client_nonce or not client_nonce.isascii() or not client_nonce.isprintable():
            raise SaslError("Expected a nonce of printable characters")
        self._nonce = client_nonce + self._fresh()
        self._verifier = verifier = self._verifier_of(self._username, self._mechanism)
        answer = f"r={self._nonce},s={_base64(verifier.salt)},i={verifier.iterations}"
        self._so_far = f"{bare},{answer},".encode()
        return Challenge(answer.encode())

    def _channel(self, flag: str) -> bytes:
        """The channel binding that the client has chosen (RFC 5802 §6)."""
        if not self._plus:
            if flag == "y" and self._plus_offered:
                raise SaslError("The list of mechanisms was changed on its way to you: -PLUS is offered")
            if flag not in ("n", "y"):
                raise SaslError("Expected n or y: channel binding belongs to the mechanism with -PLUS")
            return b""
        kind = _attribute(flag, "p")
        octets = self._binding(kind)
        if octets is None:
            raise SaslError("Expected channel binding by tls-exporter (TLS 1.3) or tls-server-end-point")
        return octets

    def _final(self, text: str) -> ScramProof:
        without_proof, comma, proof = text.rpartition(",p=")
        binding, _, rest = without_proof.partition(",")
        nonce = rest.partition(",")[0]
        if not comma or not hmac.compare_digest(_octets(_attribute(binding, "c")), self._bound):
            raise SaslError("The channel binding is not the one of this connection")
        if not hmac.compare_digest(_attribute(nonce, "r").encode(), self._nonce.encode()):
            raise SaslError("The nonce is not the one of this exchange")
        message = self._so_far + without_proof.encode()
        self._proof = ScramProof(self._username, self._mechanism, _octets(proof), message)
        return self._proof


def _decoded(octets: bytes) -> str:
    if len(octets) > MAX_MESSAGE_OCTETS:
        raise SaslError(f"A message of SCRAM has at most {MAX_MESSAGE_OCTETS} octets here")
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        raise SaslError("The message is not valid UTF-8") from None
    if "\0" in text:
        raise SaslError("The message contains a NUL")
    return text


def _split(text: str, commas: int) -> list[str]:
    parts = text.split(",", commas)
    if len(parts) != commas + 1:
        raise SaslError("Expected the messages of SCRAM as in RFC 5802 §7")
    return parts


def _attribute(text: str, letter: str) -> str:
    if not text.startswith(f"{letter}="):
        raise SaslError(f"Expected {letter}= in the message")
    return text[2:]


def _name(saslname: str) -> str:
    """A name with its ``=2C`` and ``=3D`` undone (RFC 5802 §5.1)."""
    if saslname.replace("=2C", "").replace("=3D", "").count("="):
        raise SaslError("In a name, = is written =3D and a comma =2C")
    name = saslname.replace("=2C", ",").replace("=3D", "=")
    if not 0 < len(name.encode()) <= MAX_NAME_OCTETS:
        raise SaslError(f"Expected a name of 1 to {MAX_NAME_OCTETS} octets")
    return name


def _octets(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text.encode("ascii", "replace"), strict_mode=True)
    except binascii.Error:
        raise SaslError("Expected base64 in the message") from None


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")
