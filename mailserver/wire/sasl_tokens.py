"""OAUTHBEARER (RFC 7628) and Google's XOAUTH2: a token that somebody else has given out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from mailserver.wire.sasl import MAX_NAME_OCTETS, AuthorizationRefused, Challenge, SaslError

MAX_TOKEN_OCTETS = 8192
"""A bearer token; the line of a response ends at 12288 octets of base64."""

_SEPARATOR = "\x01"
_BEARER = re.compile(r"bearer +([A-Za-z0-9\-._~+/]+=*)", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class TokenCredentials:
    """A token (RFC 6750 §2.1), which is still to be checked.

    ``username`` is who the client says it is for, ``""`` when it leaves that to the token.
    """

    username: str
    token: str = field(repr=False)


class _Bearer:
    """What both have in common: one response, and a refusal in JSON that the client acknowledges.

    ``failure`` holds further fields of that JSON: ``scope``, ``openid-configuration``.
    """

    def __init__(self, failure: Mapping[str, str] | None = None) -> None:
        self._failure = dict(failure or {})
        self._asked = self._done = False

    def step(self, response: bytes | None) -> Challenge | TokenCredentials:
        if response is None and not self._asked:
            self._asked = True
            return Challenge(b"")
        if self._done:
            raise SaslError("A bearer token is sent once")
        self._done = True
        return self._credentials(_decoded(response or b""))

    def accepted(self) -> None:
        """Nothing is left to say."""

    def refused(self) -> Challenge:
        """Why, as JSON; the client answers, and then the exchange fails (RFC 7628 §3.2.2, §3.2.3)."""
        return Challenge(json.dumps({**self._status(), **self._failure}).encode())

    def _credentials(self, text: str) -> TokenCredentials:
        raise NotImplementedError

    def _status(self) -> dict[str, str]:
        raise NotImplementedError


class OAuthBearer(_Bearer):
    """``n,a=ada@example.test,^Ahost=…^Aport=…^Aauth=Bearer token^A^A`` (RFC 7628 §3.1)."""

    def _credentials(self, text: str) -> TokenCredentials:
        header, separator, pairs = text.partition(_SEPARATOR)
        flag, _, rest = header.partition(",")
        if not separator or not rest.endswith(",") or flag not in ("n", "y"):
            raise SaslError("Expected n,a=name, and key=value pairs as in RFC 7628 §3.1")
        authorization = rest[:-1]
        if authorization and not authorization.startswith("a="):
            raise SaslError("Expected a= and a name, or nothing")
        name = _name(authorization[2:].replace("=2C", ",").replace("=3D", "="))
        return TokenCredentials(name, _token(_pairs(pairs)))

    def _status(self) -> dict[str, str]:
        return {"status": "invalid_token"}


class XOAuth2(_Bearer):
    """``user=ada@example.test^Aauth=Bearer token^A^A``."""

    def _credentials(self, text: str) -> TokenCredentials:
        pairs = _pairs(text)
        if not (user := pairs.get("user", "")):
            raise SaslError("Expected user= and a name")
        return TokenCredentials(_name(user), _token(pairs))

    def _status(self) -> dict[str, str]:
        return {"status": "400", "schemes": "bearer"}


def _decoded(octets: bytes) -> str:
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        raise SaslError("The response is not valid UTF-8") from None


def _pairs(text: str) -> dict[str, str]:
    """``key=value^A … ^A``, each key once."""
    if not text.endswith(_SEPARATOR * 2) and text != _SEPARATOR:
        raise SaslError("Expected pairs of key=value, each with a ^A behind it, and one more at the end")
    pairs: dict[str, str] = {}
    for pair in text.rstrip(_SEPARATOR).split(_SEPARATOR):
        key, equals, value = pair.partition("=")
        if not equals or key in pairs:
            raise SaslError("Expected pairs of key=value, each key once")
        pairs[key] = value
    return pairs


def _token(pairs: Mapping[str, str]) -> str:
    found = _BEARER.fullmatch(pairs.get("auth", ""))
    if found is None or len(found[1]) > MAX_TOKEN_OCTETS:
        raise SaslError("Expected auth=Bearer and a token")
    return found[1]


def _name(name: str) -> str:
    if len(name.encode()) > MAX_NAME_OCTETS or not name.isprintable():
        raise AuthorizationRefused("The name cannot be a user's")
    return name
