"""AUTH as a client says it: SCRAM where the server knows it, else PLAIN, else LOGIN (RFC 4954, RFC 5802)."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from collections.abc import Iterator

from mailserver.values.reply import Reply
from mailserver.wire.sasl import SaslError
from mailserver.wire.sasl_client import ScramClient

KNOWN = ("SCRAM-SHA-256", "SCRAM-SHA-1", "PLAIN", "LOGIN")
"""In the order of our choice: what tells the server least comes first."""


class ClientLogin:
    """One AUTH exchange; ``mechanisms`` is the argument of the server's AUTH keyword.

    Raises:
        SaslError: the server has no mechanism that we know.
    """

    def __init__(self, mechanisms: str, user: str, password: str) -> None:
        offered = mechanisms.upper().split()
        name = next((name for name in KNOWN if name in offered), "")
        if not name:
            raise SaslError(f"the server offers no mechanism of {', '.join(KNOWN)}")
        self.mechanism = name
        self._user, self._password = user, password
        self._scram = ScramClient(name, user, password) if name.startswith("SCRAM") else None
        self._lines: Iterator[str] = iter(()) if self._scram else self._plainly(name)
        self._challenges = 0

    def first(self) -> str:
        """The AUTH command, with an initial response where the mechanism has one."""
        if self._scram is not None:
            return f"AUTH {self.mechanism} {_encoded(self._scram.first())}"
        return next(self._lines)

    def next(self, reply: Reply) -> str:
        """The response to a 334; ``"*"`` gives up.

        Raises:
            SaslError: the server did not keep to the mechanism, or could not prove who it is.
        """
        challenge = _decoded(reply.lines[0])
        if self._scram is None:
            return next(self._lines, "*")
        self._challenges += 1
        if self._challenges == 1:
            return _encoded(self._scram.final(challenge))
        return _encoded(self._scram.verify(challenge))

    def accepted(self, reply: Reply) -> None:
        """235 came. A server may put its proof there in no other way than as a challenge before (RFC 4954
        §4), so without one it has proved nothing.

        Raises:
            SaslError: SCRAM ended without the server's proof.
        """
        if self._scram is not None and self._challenges < 2:
            raise SaslError("the server ended SCRAM without proving that it knows the password's verifier")

    def _plainly(self, name: str) -> Iterator[str]:
        if name == "PLAIN":
            octets = b"\0".join([b"", self._user.encode(), self._password.encode()])
            yield f"AUTH PLAIN {_encoded(octets)}"
        else:
            yield "AUTH LOGIN"
            yield _encoded(self._user.encode())
            yield _encoded(self._password.encode())


def _encoded(octets: bytes) -> str:
    return b64encode(octets).decode("ascii")


def _decoded(text: str) -> bytes:
    try:
        return b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise SaslError("the server's challenge is not base64") from None
