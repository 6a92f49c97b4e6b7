"""SASL, the server's side: mechanisms as small machines from responses to credentials (RFC 4422).

A mechanism is made for one exchange.  SMTP (RFC 4954) and POP3 (RFC 5034) decode the base64 and
call ``step`` with each response until it gives credentials.  A mechanism with proofs of another
kind (``sasl_scram``, ``sasl_tokens``, ``sasl_cram``) gives values of its own beside
``PlainCredentials``; ``sasl_mechanisms`` knows them all.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass, field
from typing import Protocol

MAX_NAME_OCTETS = 512
"""A user name or authorization identity; RFC 4616 §2 asks for 255 at least, an address needs 320."""

MAX_PASSWORD_OCTETS = 1024
"""RFC 4616 §2 asks for 255 at least; the limit keeps hashing cheap."""


class SaslError(Exception):
    """The exchange has failed; the text is ours and may be shown: 501 5.5.2, or ``-ERR``."""


class AuthorizationRefused(SaslError):
    """Somebody asked to act as somebody else: 535 5.7.8, or ``-ERR [AUTH]`` (RFC 4616 §2)."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """What the server says next, before base64; the client's response goes to ``step``."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class PlainCredentials:
    """A name and a password, which are still to be checked.

    ``authorization`` is ``""`` or equal to ``username``.
    """

    username: str
    password: str = field(repr=False)
    authorization: str = ""


class Credentials(Protocol):
    """Whatever is to be checked: a name, and something that only its owner can know or make."""

    @property
    def username(self) -> str: ...


class Mechanism(Protocol):
    """One exchange, from the first response to the credentials and what is said after their check."""

    def step(self, response: bytes | None) -> Challenge | Credentials:
        """Take the client's next response, decoded; ``None`` when AUTH came without an initial one.

        Raises:
            SaslError: the response breaks the mechanism's rules; the exchange is over.
        """
        ...

    def accepted(self) -> Challenge | None:
        """The last words to somebody whose credentials were right, if any: an empty response follows."""
        ...

    def refused(self) -> Challenge | None:
        """The last words to somebody whose credentials were wrong, if any: a response follows."""
        ...


def decode_base64(text: bytes) -> bytes:
    """The octets behind a response; ``=`` alone is the empty initial response (RFC 4954 §4).

    Raises:
        SaslError: not base64 in its strict form (RFC 4648 §3.3).
    """
    if text == b"=":
        return b""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        raise SaslError("Expected a response in base64") from None


def encode_base64(octets: bytes) -> bytes:
    """A challenge as it goes onto the wire, without a line end."""
    return binascii.b2a_base64(octets, newline=False)


def _text(octets: bytes, limit: int, what: str) -> str:
    """Strict UTF-8 without NUL, not empty, of at most ``limit`` octets."""
    if not octets:
        raise SaslError(f"Expected a {what}, found none")
    if len(octets) > limit:
        raise SaslError(f"The {what} is longer than {limit} octets")
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError:
        raise SaslError(f"The {what} is not valid UTF-8") from None
    if "\0" in text:
        raise SaslError(f"The {what} contains a NUL")
    return text


class Plain:
    """PLAIN: ``[authorization] NUL name NUL password`` in one response (RFC 4616 §2)."""

    def __init__(self) -> None:
        self._done = False

    def accepted(self) -> None:
        """Nothing is left to say."""

    def refused(self) -> None:
        """Nothing is left to say."""

    def step(self, response: bytes | None) -> Challenge | PlainCredentials:
        if self._done:
            raise SaslError("PLAIN has one response only")
        if response is None:
            return Challenge(b"")
        self._done = True
        parts = response.split(b"\0", 3)
        if len(parts) != 3:
            raise SaslError("Expected [authorization] NUL name NUL password")
        username = _text(parts[1], MAX_NAME_OCTETS, "name")
        password = _text(parts[2], MAX_PASSWORD_OCTETS, "password")
        authorization = _text(parts[0], MAX_NAME_OCTETS, "authorization identity") if parts[0] else ""
        if authorization not in ("", username):
            raise AuthorizationRefused("Acting as another user is not allowed")
        return PlainCredentials(username, password, authorization)


class Login:
    """LOGIN: name, then password, each asked for (draft-murchison-sasl-login).

    The prompts are those that clients compare with; an initial response is taken as the name.
    """

    def __init__(self) -> None:
        self._asked = False
        self._username: str | None = None
        self._done = False

    def accepted(self) -> None:
        """Nothing is left to say."""

    def refused(self) -> None:
        """Nothing is left to say."""

    def step(self, response: bytes | None) -> Challenge | PlainCredentials:
        if self._done:
            raise SaslError("LOGIN has two responses only")
        if response is None and not self._asked:
            self._asked = True
            return Challenge(b"Username:")
        octets = response or b""
        if self._username is None:
            self._username = _text(octets, MAX_NAME_OCTETS, "name")
            return Challenge(b"Password:")
        self._done = True
        return PlainCredentials(self._username, _text(octets, MAX_PASSWORD_OCTETS, "password"))
