"""What a session must reach before mail passes, and what it reached: values, without any network."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum


class Level(IntEnum):
    """How much a session must reach; a higher one includes the lower."""

    CLEAR = 0
    """STARTTLS is not taken up."""
    OPPORTUNISTIC = 1
    """TLS where it works, with anybody (RFC 7435)."""
    ENCRYPTED = 2
    """TLS or nothing, with anybody (RFC 7672 §2.2: TLSA records, none of them usable)."""
    VERIFIED = 3
    """TLS with somebody whom ``Security.by`` vouches for, or nothing."""


DANE, MTA_STS, WEBPKI = "DANE", "MTA-STS", "WebPKI"
"""Who may vouch for a host: TLSA records; a CA, for a host that a policy names; a CA alone."""


@dataclass(frozen=True, slots=True)
class TLSA:
    """One TLSA record (RFC 6698 §2.1)."""

    usage: int
    selector: int
    matching: int
    association: bytes

    def __str__(self) -> str:
        """As zone files write it."""
        return f"{self.usage} {self.selector} {self.matching} {self.association.hex()}"


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy behind a ``Security``, as TLS reports name it (RFC 8460 §4.4): ``kind`` is ``tlsa``,
    ``sts`` or ``no-policy-found``, ``lines`` the policy itself, ``domain`` whose it is."""

    kind: str
    domain: str
    lines: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Security:
    """What is demanded of a session with one mail exchange.

    ``by`` says who must vouch for the host, ``names`` which names its certificate may be for, one of them
    (under DANE the first is the one that the records are at), and ``tlsa`` the usable records.  ``watched``
    asks for the check but lets mail pass whatever it finds (RFC 8461 §5, "testing").  ``require_tls`` asks
    that the host promise to go on like this (RFC 8689).  ``implicit`` begins TLS with the connection.
    ``refused`` says, when it is not empty, why no mail may go there at all, with ``status`` for the report.
    """

    level: Level = Level.OPPORTUNISTIC
    by: str = ""
    names: tuple[str, ...] = ()
    tlsa: tuple[TLSA, ...] = ()
    watched: bool = False
    require_tls: bool = False
    implicit: bool = False
    refused: str = ""
    status: str = ""
    failure: str = field(default="", compare=False)
    """What a TLS report says of the policy itself (RFC 8460 §4.3); ``""``: nothing."""
    policy: Policy | None = field(default=None, compare=False)
    domain: str = field(default="", compare=False)
    """The recipients' domain, for reports. It is no part of what is demanded: domains that share their
    exchanges and demand the same share sessions."""


OPPORTUNISTIC = Security()
CLEAR = Security(Level.CLEAR)


@dataclass(frozen=True, slots=True)
class Protection:
    """What a session reached: ``TLSv1.3``, ``TLS_AES_256_GCM_SHA384``, and who vouched: ``DANE``,
    ``MTA-STS``, ``WebPKI``, or ``""`` for nobody."""

    version: str
    cipher: str
    verified_by: str = ""

    def __str__(self) -> str:
        """As logs and the list of attempts show it."""
        how = f"verified by {self.verified_by}" if self.verified_by else "unverified"
        return f"{self.version} {self.cipher} {how}"


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Why a handshake is not good enough: a result type of RFC 8460 §4.3, and words."""

    kind: str
    reason: str
