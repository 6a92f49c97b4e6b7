"""CRAM-MD5 (RFC 2195): for old clients, and only where an administrator turns it on.

The server must know the password itself to check the answer, and MD5 is old: SCRAM does all that
it did, better.
"""

from __future__ import annotations

import hmac
import secrets
import time
from dataclasses import dataclass, field

from mailserver.wire.sasl import MAX_NAME_OCTETS, Challenge, SaslError


@dataclass(frozen=True, slots=True)
class CramResponse:
    """An answer to a challenge, which is still to be checked."""

    username: str
    challenge: bytes
    digest: str = field(repr=False)

    def fits(self, password: str) -> bool:
        """Whether it could only be made by somebody who knows the password."""
        right = hmac.new(password.encode(), self.challenge, "md5").hexdigest()
        return hmac.compare_digest(right.encode(), self.digest.lower().encode())


class CramMD5:
    """``<unique@host>``, answered by ``name digest``."""

    def __init__(self, hostname: str) -> None:
        self._challenge = f"<{secrets.token_hex(12)}.{int(time.time())}@{hostname}>".encode()
        self._asked = self._done = False

    def step(self, response: bytes | None) -> Challenge | CramResponse:
        if response is None and not self._asked:
            self._asked = True
            return Challenge(self._challenge)
        if not self._asked:
            raise SaslError("CRAM-MD5 has no initial response")
        if self._done:
            raise SaslError("CRAM-MD5 has one response only")
        self._done = True
        try:
            name, space, digest = (response or b"").decode("utf-8").rpartition(" ")
        except UnicodeDecodeError:
            raise SaslError("The response is not valid UTF-8") from None
        if not space or not 0 < len(name.encode()) <= MAX_NAME_OCTETS or "\0" in name or len(digest) != 32:
            raise SaslError("Expected a name, a space and a digest of 32 hexadecimal digits")
        return CramResponse(name, self._challenge, digest)

    def accepted(self) -> None:
        """Nothing is left to say."""

    def refused(self) -> None:
        """Nothing is left to say."""
