"""APOP (RFC 1939 §7): for old clients, and only where an administrator turns it on.

The server must know the password itself to check the digest, and MD5 is old: SCRAM does all that it
did, better.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass, field

from mailserver.wire.pop3_table import SyntaxWrong, text

_DIGITS = frozenset(b"0123456789abcdef")


@dataclass(frozen=True, slots=True)
class ApopResponse:
    """What a client made of the greeting's timestamp and its password; still to be checked."""

    username: str
    timestamp: bytes
    digest: bytes = field(repr=False)

    def fits(self, password: str) -> bool:
        """Whether it could only be made by somebody who knows the password."""
        right = hashlib.md5(self.timestamp + password.encode(), usedforsecurity=False).hexdigest()
        return hmac.compare_digest(right.encode(), self.digest)


def new_timestamp(hostname: str) -> bytes:
    """A message-id that no greeting has had before (RFC 1939 §7)."""
    return f"<{secrets.token_hex(12)}.{int(time.time())}@{hostname}>".encode()


def apop_response(rest: bytes, timestamp: bytes) -> ApopResponse:
    """The arguments of APOP: a name, and a digest of 32 hexadecimal digits.

    Raises:
        SyntaxWrong: they are something else.
    """
    name, space, digest = rest.strip(b" ").rpartition(b" ")
    digest = digest.lower()
    if not space or len(digest) != 32 or not _DIGITS.issuperset(digest):
        raise SyntaxWrong
    return ApopResponse(text(name), timestamp, digest)
