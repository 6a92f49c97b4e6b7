"""The envelope: what SMTP said about a message, and what it still waits for."""

from __future__ import annotations

from functools import lru_cache

from mailserver.values.address import Address
from mailserver.values.content import Content
from mailserver.values.value import value

EXPANDED = "EXPANDED"
"""See ``Recipient``; no client can say it."""

LISTED = "LISTED"
"""See ``Recipient``; no client can say it, and no server is told."""

_DIGITS = "0123456789bcdfghjklmnpqrstvwxyz"
_LONGEST = 13  # digits of 2**63


_PAIRS = tuple(high + low for high in _DIGITS for low in _DIGITS)
_TWO_DIGITS, _FOUR_DIGITS, _SIX_DIGITS = (len(_DIGITS) ** n for n in (2, 4, 6))


@lru_cache(maxsize=4096)  # the same few are asked for again and again while their messages pass
def queue_id(entry: int) -> str:
    """How people see the number of a spool entry: lower case, no vowels, so no words appear."""
    high, low = divmod(entry, _SIX_DIGITS)
    first, low = divmod(low, _FOUR_DIGITS)
    second, third = divmod(low, _TWO_DIGITS)
    text = _PAIRS[first] + _PAIRS[second] + _PAIRS[third]
    return _high_digits(high) + text if high else text.lstrip("0") or "0"


@lru_cache(maxsize=64)  # the same for all that are made in a second
def _high_digits(high: int) -> str:
    text = ""
    while high >= len(_PAIRS):
        high, pair = divmod(high, len(_PAIRS))
        text = _PAIRS[pair] + text
    return (_PAIRS[high] + text).lstrip("0")


def entry_number(text: str) -> int:
    """The number behind a queue id.

    Raises:
        ValueError: ``text`` was never made by ``queue_id``.
    """
    number = 0
    for letter in text[:_LONGEST]:
        number = number * len(_DIGITS) + max(_DIGITS.find(letter), 0)
    if not 0 < len(text) <= _LONGEST or number >= 1 << 63 or queue_id(number) != text:
        raise ValueError(f"{text!r} is not a queue id; `mailserver queue list` shows them")
    return number


@value(frozen=True, slots=True)
class Recipient:
    """One final recipient.

    ``number`` is its place in the envelope and its name in the spool.  ``original`` is the
    forward-path the client gave, before aliases, which a report must show (RFC 3461 §4.2 ORCPT;
    ``orcpt`` when the client sent one, as ``rfc822;xtext`` or ``utf-8;...``).  ``notify`` holds
    the words of NOTIFY; empty means that none was given (RFC 3461 §4.1).

    ``EXPANDED`` in it is a word of our own: the recipient is an alias whose members are recipients
    of their own, so nothing is sent to it, but its sender is told of the expansion.

    ``LISTED``, too: the recipient is a member of the mailing list ``original``, gets its copy from the
    list, and nobody but the list hears that it failed.
    """

    number: int
    address: Address
    original: Address
    orcpt: str = ""
    notify: frozenset[str] = frozenset()

    @property
    def is_expanded(self) -> bool:
        """Whether only the report of its expansion is still owed."""
        return EXPANDED in self.notify

    @property
    def is_listed(self) -> bool:
        """Whether it is a mailing list's copy."""
        return LISTED in self.notify


@value(frozen=True, slots=True)
class Envelope:
    """Reverse-path, recipients and the parameters of MAIL that travel with a message.

    ``ret`` is ``"FULL"``, ``"HDRS"`` or ``""``; ``body`` is ``"7BIT"``, ``"8BITMIME"`` or
    ``"BINARYMIME"`` (RFC 6152, RFC 3030).

    ``release_at`` (seconds since the epoch; 0: at once) is when the message may be attempted first;
    ``hold`` says, in words for the administrator, why it waits until somebody releases it.

    ``require_tls``: only over verified TLS (RFC 8689 §4.2.1); ``tls_optional``: the header says
    ``TLS-Required: No`` (RFC 8689 §5), so better in clear than not at all.  ``deliver_by`` (seconds
    since the epoch; 0: none) is when BY's time is over, and ``by_mode`` what then happens: ``"R"``
    return, ``"N"`` notify, each with a ``T`` for trace (RFC 2852 §4).  ``priority`` is -9 to 9 (RFC
    6710); ``auth`` is who submitted the message, ``"<>"``: not known (RFC 4954 §5).

    ``terminal`` is ``"SOML"`` or ``"SAML"`` where the message is for the recipients' terminals first, or too
    (RFC 821 §3.4).

    ``bounce`` and ``route`` are an operator's orders: return it to its sender, for this reason; send it
    by this next hop (a URL as in ``[relay.routes]``).
    """

    reverse_path: Address
    recipients: tuple[Recipient, ...]
    body: str = "7BIT"
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    release_at: float = 0.0
    hold: str = ""
    require_tls: bool = False
    tls_optional: bool = False
    deliver_by: float = 0.0
    by_mode: str = ""
    priority: int = 0
    auth: str = ""
    bounce: str = ""
    route: str = ""
    terminal: str = ""

    @property
    def is_kept_back(self) -> bool:
        """Whether the spool keeps the message for itself when it is committed: nobody leases it."""
        return self.release_at > 0 or self.hold != ""


@value(frozen=True, slots=True)
class Waiting:
    """A recipient that the spool still answers for.

    ``attempts`` counts those already made, ``reason`` is the last one's outcome in words, and
    ``warned`` tells that the sender has had a report of the delay.  ``hold``, ``bounce`` and ``route`` are
    an operator's orders for this recipient alone, as in ``Envelope``.
    """

    recipient: Recipient
    attempts: int = 0
    reason: str = ""
    warned: bool = False
    hold: str = ""
    bounce: str = ""
    route: str = ""


@value(frozen=True, slots=True)
class Entry:
    """One message in the spool, with those of its recipients that are due.

    ``arrived`` is in seconds since the epoch.  ``recovered`` is true when the entry was read back
    from disk: an earlier attempt may have ended without leaving a record, so whoever delivers
    looks for its own traces first.
    """

    id: int
    arrived: float
    envelope: Envelope
    waiting: tuple[Waiting, ...]
    content: Content
    recovered: bool = False

    @property
    def queue_id(self) -> str:
        return queue_id(self.id)

    @property
    def began(self) -> float:
        """Whence retries count: the arrival, or the time that the message was kept back for
        (RFC 4865 §4: a queue's time limits begin with the release)."""
        return max(self.arrived, self.envelope.release_at)
