"""What is kept of a password: an Argon2id hash, verifiers of SCRAM, and on demand what CRAM-MD5 needs."""

from __future__ import annotations

import os

from mailserver.accounts.login_key import LoginKey
from mailserver.accounts.passwords import hash_password, normalised
from mailserver.values.account import Secrets
from mailserver.wire.sasl_scram import HASHES, ITERATIONS, SALT_OCTETS, ScramVerifier


def secrets_of(password: str, key: LoginKey | None = None, iterations: int = ITERATIONS) -> Secrets:
    """Everything that log-in by this password may need later. Takes about 150 ms.

    With a ``key`` the password itself is kept too, sealed: CRAM-MD5 cannot do without.

    Raises:
        ValueError: the password cannot be one; see ``passwords.normalised``.
    """
    text = normalised(password)
    verifiers = {
        mechanism: ScramVerifier.of(text, os.urandom(SALT_OCTETS), iterations, mechanism).text(mechanism)
        for mechanism in HASHES
    }
    return Secrets(hash_password(password), verifiers, key.seal(text) if key else "")
