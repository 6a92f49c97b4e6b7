"""Every SASL mechanism by its registered name: which are offered when, and how an exchange begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mailserver.wire.sasl import Login, Mechanism, Plain
from mailserver.wire.sasl_cram import CramMD5
from mailserver.wire.sasl_scram import Scram, ScramVerifier
from mailserver.wire.sasl_tokens import OAuthBearer, XOAuth2

PASSWORDS = ("PLAIN", "LOGIN")
PROOFS = ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1")
TOKENS = ("OAUTHBEARER", "XOAUTH2")
CRAM = ("CRAM-MD5",)


def offered(tokens: bool = False, cram_md5: bool = False) -> tuple[str, ...]:
    """What a server offers, the one to prefer first; ``-PLUS`` among them only counts inside TLS."""
    return (*PROOFS, *(TOKENS if tokens else ()), *PASSWORDS, *(CRAM if cram_md5 else ()))


def usable(mechanisms: Sequence[str], tls: bool) -> tuple[str, ...]:
    """Those of ``mechanisms`` that work now: there is no channel to bind to without TLS."""
    return tuple(name for name in mechanisms if tls or not name.endswith("-PLUS"))


def no_binding(kind: str) -> bytes | None:
    """The channel binding of a connection without TLS."""
    return None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What mechanisms may ask of the place where they run.

    ``verifier``: (name, mechanism without ``-PLUS``) -> a verifier, also for nobody; ``binding``:
    kind of channel binding -> its octets; ``mechanisms``: those that the client has been offered;
    ``token_failure``: further fields of the JSON that refuses a token (RFC 7628 §3.2.2).
    """

    hostname: str
    verifier: Callable[[str, str], ScramVerifier]
    mechanisms: tuple[str, ...] = PASSWORDS
    binding: Callable[[str], bytes | None] = no_binding
    token_failure: Mapping[str, str] = field(default_factory=dict)


def begin(name: str, around: Surroundings) -> Mechanism:
    """One exchange of a mechanism that is offered.

    Raises:
        KeyError: there is none of that name.
    """
    return _BEGIN[name](name, around)


def _scram(name: str, around: Surroundings) -> Mechanism:
    plus = f"{name.removesuffix('-PLUS')}-PLUS"
    return Scram(name, around.verifier, around.binding, plus in around.mechanisms)


_BEGIN: dict[str, Callable[[str, Surroundings], Mechanism]] = {
    **dict.fromkeys(PROOFS, _scram),
    "OAUTHBEARER": lambda _, around: OAuthBearer(around.token_failure),
    "XOAUTH2": lambda _, around: XOAuth2(around.token_failure),
    "PLAIN": lambda _, around: Plain(),
    "LOGIN": lambda _, around: Login(),
    "CRAM-MD5": lambda _, around: CramMD5(around.hostname),
}
