"""Passwords: Argon2id hashes, their verification, and random passwords that people can type.

Parameters are t=2, 19 MiB, p=1 (OWASP's and RFC 9106's smaller choice): about 50 ms of processor
time for a log-in, and not enough memory to make a log-in a weapon.
"""

from __future__ import annotations

import secrets
import unicodedata

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

LONGEST = 1024
"""Characters; more is nobody's password, and normalising it costs time."""

_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)

DUMMY_HASH = (
    "$argon2id$v=19$m=19456,t=2,p=1$jhFu5lyr8MO2XhS14SsF8g$3PgNYCKTnwNIYlDcVXLljj2uL6YC0lizg+8U9tOcC7I"
)
"""Verified for users who do not exist, so that they cost what the others cost. The hash of 256 bits
that were never written down: no password fits."""

_LETTERS = "23456789bcdfghjkmnpqrstvwxz"  # neither vowels, so no words, nor what looks like another


def normalised(password: str) -> str:
    """The password in the form that is hashed, after RFC 8265 §4.2.2 (OpaqueString): every space
    becomes U+0020, then NFC; case and width stay. So ``é`` typed as one character or as two is the
    same password.

    Raises:
        ValueError: it is empty, longer than ``LONGEST``, or holds a control character, a surrogate,
            or a code point that Unicode has not assigned.
    """
    if not 0 < len(password) <= LONGEST:
        raise ValueError(f"a password has 1 to {LONGEST} characters")
    if password.isascii() and password.isprintable():
        return password
    spaced = "".join(" " if unicodedata.category(c) == "Zs" else c for c in password)
    text = unicodedata.normalize("NFC", spaced)
    if any(unicodedata.category(c) in ("Cc", "Cs", "Cn") for c in text):
        raise ValueError("a password may not hold control characters")
    return text


def hash_password(password: str) -> str:
    """The Argon2id hash in PHC's format, ``$argon2id$v=19$…``. Takes about 50 ms.

    Raises:
        ValueError: the password cannot be one; see ``normalised``.
    """
    return _HASHER.hash(normalised(password))


def verify_password(hash: str, password: str) -> bool:
    """Whether the password fits the hash. Takes about 50 ms; junk in either is simply ``False``."""
    try:
        return _HASHER.verify(hash, normalised(password))
    except (Argon2Error, InvalidHashError, ValueError):
        return False


def random_password() -> str:
    """Four groups of five letters and digits, ``h7kzq-…``: 95 bits, readable over a telephone."""
    return "-".join("".join(secrets.choice(_LETTERS) for _ in range(5)) for _ in range(4))
