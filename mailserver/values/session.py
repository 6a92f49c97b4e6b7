"""Facts about one SMTP session and its transaction, as rules and trace headers read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from mailserver.values.account import Account, Resolution
from mailserver.values.address import NULL_SENDER, Address
from mailserver.values.value import value


def _no_binding(kind: str) -> bytes | None:
    return None


@value(frozen=True, slots=True)
class TLSFacts:
    """What the handshake agreed: ``TLSv1.3`` and ``TLS_AES_256_GCM_SHA384``, for example.

    ``binding`` gives the octets of a kind of channel binding, ``None`` where there are none.
    """

    version: str
    cipher: str
    binding: Callable[[str], bytes | None] = field(default=_no_binding, compare=False, repr=False)


@dataclass(slots=True)
class SessionFacts:
    """One connection. ``role`` is the listener's: ``"smtp"``, ``"submission"`` or ``"lmtp"``.

    ``hello`` is the argument of EHLO or HELO, cleaned for headers and logs; ``extended`` is true
    after EHLO; ``trusted`` tells that the client's network may relay without AUTH, ``exempt`` that
    the limits for strangers do not hold for it.  ``client_name`` is what DNS calls the client and
    confirms, ``""`` when that is not known.  ``gone`` tells that the connection has ended.
    ``began`` is when it did, in seconds since the epoch; 0 where nobody looked.
    """

    role: str
    client_host: str
    client_port: int
    hello: str = ""
    extended: bool = False
    tls: TLSFacts | None = None
    account: Account | None = None
    trusted: bool = False
    exempt: bool = False
    gone: bool = False
    client_name: str = ""
    began: float = 0.0


@dataclass(slots=True)
class TransactionFacts:
    """One MAIL … end of data. ``size`` is what MAIL's SIZE declared, 0 when it did not.

    ``decided_by`` names the rule with the last opinion; ``notes`` are what rules found without an
    objection, as (rule, finding), for the trace.
    """

    session: SessionFacts
    reverse_path: Address = NULL_SENDER
    size: int = 0
    recipients: list[Address] = field(default_factory=list)
    decided_by: str = ""
    notes: list[tuple[str, str]] = field(default_factory=list)


@value(frozen=True, slots=True)
class RecipientFacts:
    """One RCPT: who is asked for, and what the directory says of it."""

    transaction: TransactionFacts
    forward_path: Address
    resolution: Resolution
