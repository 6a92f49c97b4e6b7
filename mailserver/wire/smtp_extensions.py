"""What EHLO and LHLO offer: each extension with the facts that make it true."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from mailserver.wire.sasl_mechanisms import usable
from mailserver.wire.smtp_events import Offer
from mailserver.wire.smtp_table import (
    AUTHENTICATED,
    ETRN,
    EXPAND,
    FUTURE_RELEASE,
    MECHANISMS,
    PRIORITY,
    PRIVATE,
    REQUIRE_TLS,
    STARTTLS,
    TERMINALS,
    TLS,
    VERIFY,
)


class Extension(NamedTuple):
    """A line of the EHLO reply that is there while ``facts & bits == wanted``."""

    line: Callable[[Offer, int, str], str]
    bits: int = 0
    wanted: int = 0


def _always(keyword: str, bit: int = 0) -> Extension:
    return Extension(lambda offer, facts, latest: keyword, bit, bit)


def _limits(offer: Offer) -> str:
    """What is said here must be true (RFC 9422 §3)."""
    told = (("MAILMAX", offer.messages), ("RCPTMAX", offer.recipients), ("RCPTDOMAINMAX", offer.domains))
    return " ".join(f"{name}={most}" for name, most in told if most)


EXTENSIONS = (
    Extension(lambda offer, facts, latest: f"SIZE {offer.message_size}"),
    _always("8BITMIME"),
    _always("BINARYMIME"),
    _always("CHUNKING"),
    _always("PIPELINING"),
    _always("ENHANCEDSTATUSCODES"),
    _always("SMTPUTF8"),
    _always("DSN"),
    Extension(lambda offer, facts, latest: f"LIMITS {_limits(offer)}"),
    _always("DELIVERBY"),
    Extension(
        lambda offer, facts, latest: f"FUTURERELEASE {offer.future_release} {latest}",
        FUTURE_RELEASE,
        FUTURE_RELEASE,
    ),
    _always("MT-PRIORITY", PRIORITY),
    _always("REQUIRETLS", REQUIRE_TLS),
    _always("ETRN", ETRN),
    _always("VRFY", VERIFY),
    _always("EXPN", EXPAND),
    _always("SEND", TERMINALS),
    _always("SOML", TERMINALS),
    _always("SAML", TERMINALS),
    # Nobody who has logged in may start TLS (smtp_table), so it is not offered to them.
    Extension(lambda offer, facts, latest: "STARTTLS", STARTTLS | AUTHENTICATED, STARTTLS),
    Extension(
        lambda offer, facts, latest: f"AUTH {' '.join(usable(offer.mechanisms, facts & TLS != 0))}",
        MECHANISMS | PRIVATE | AUTHENTICATED,
        MECHANISMS | PRIVATE,
    ),
    _always("HELP"),
)
"""What EHLO and LHLO list, in order (RFC 5321 §4.1.1.1); the third argument of ``line`` is the time
until which a release may be put off."""
