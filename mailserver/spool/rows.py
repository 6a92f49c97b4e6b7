"""Envelopes, recipients and outcomes as rows of the spool, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

from mailserver.spool.schema import ATTEMPTS_KEPT, NEVER
from mailserver.values.address import Address
from mailserver.values.attempt import Facts
from mailserver.values.envelope import Entry, Envelope, Recipient, Waiting
from mailserver.values.outcome import Delayed, Outcome

# Three times as fast here as the encoder of whole objects.  Letters outside ASCII stay as they
# are: escaped, a lone surrogate would reach the table as octets that nobody can read back.
_quoted = json.encoder.encode_basestring

_REASON_CHARACTERS = 1000

Row = Sequence[Any]


def _checked(row: str, *texts: str) -> str:
    """``row``, a piece of JSON that holds ``texts``; what the table would refuse fails here, before
    it is in one batch with others.

    Raises:
        ValueError: a text holds a NUL, where SQLite's JSON would end it, or a lone surrogate
            (``UnicodeEncodeError``).
    """
    if not row.isascii():
        row.encode()
    if "\\u0000" in row and any("\0" in text for text in texts):
        raise ValueError("a NUL in an address or parameter")
    return row


def entry_row(number: int, arrived: float, envelope: Envelope) -> str:
    """A row of ``entry`` as a JSON array that is still open: the place of the content follows."""
    local, domain = envelope.reverse_path.local, envelope.reverse_path.domain
    parameters = _quoted(_parameters(envelope))
    hold = _quoted(envelope.hold) if envelope.hold else "null"
    row = f"[{number},{arrived!r},{_quoted(local)},{_quoted(domain)},{parameters},{hold}"
    return _checked(row, local, domain, envelope.hold)


def recipient_rows(entry: int, envelope: Envelope) -> str:
    """Rows of ``recipient`` as JSON arrays with commas between them; leased, or kept back."""
    first = ""
    if envelope.is_kept_back:
        first = f",{NEVER if envelope.hold else float(envelope.release_at)!r}"
    return ",".join([_recipient_row(entry, recipient, first) for recipient in envelope.recipients])


def _recipient_row(entry: int, recipient: Recipient, first: str) -> str:
    address, original = recipient.address, recipient.original
    local, domain, orcpt = address.local, address.domain, recipient.orcpt
    same = original is address or original == address
    was = "null,null" if same else f"{_quoted(original.local)},{_quoted(original.domain)}"
    notify = ",".join(sorted(recipient.notify)) if recipient.notify else ""
    return _checked(
        f"[{entry},{recipient.number},{_quoted(local)},{_quoted(domain)},{was},{_quoted(orcpt)},{_quoted(notify)}{first}]",
        local,
        domain,
        original.local,
        original.domain,
        orcpt,
    )


def attempt_rows(entry: Entry, outcomes: Sequence[Outcome]) -> str:
    """``[entry, facts]`` for each address that was tried; nothing when nobody of the entry can be left
    waiting, for then nobody can ask."""
    if len(outcomes) >= len(entry.envelope.recipients) and not any(isinstance(o, Delayed) for o in outcomes):
        return ""
    tried: dict[int, tuple[Facts, list[int]]] = {}
    for outcome in outcomes:
        if outcome.facts is not None and outcome.facts.attempts:
            tried.setdefault(id(outcome.facts), (outcome.facts, []))[1].append(outcome.recipient.number)
    rows = []
    for facts, numbers in tried.values():
        for attempt in facts.attempts[-ATTEMPTS_KEPT:]:
            text = json.dumps({**attempt.fields(), "recipients": numbers[:100]})
            rows.append(f"[{entry.id},{_quoted(text)}]")
    return ",".join(rows)


def delayed_row(entry: int, outcome: Delayed) -> str:
    """``[entry, number, retry_at, reason, warned]``; the reason is made safe, never refused."""
    reason = outcome.diagnostic[:_REASON_CHARACTERS].replace("\0", "?").encode("utf-8", "replace").decode()
    number, warned = outcome.recipient.number, int(outcome.warned)
    return f"[{entry},{number},{float(outcome.retry_at)!r},{_quoted(reason)},{warned}]"


_OTHERS: dict[str, type] = {
    "smtputf8": bool,
    "ret": str,
    "envid": str,
    "release_at": float,
    "require_tls": bool,
    "tls_optional": bool,
    "deliver_by": float,
    "by_mode": str,
    "priority": int,
    "auth": str,
    "bounce": str,
    "route": str,
    "terminal": str,
}
"""Fields of the envelope that are kept when they say something."""

_others_of = attrgetter(*_OTHERS)


def _parameters(envelope: Envelope) -> str:
    """What MAIL's parameters said, as JSON without those that say nothing."""
    others = _others_of(envelope)
    if envelope.body == "7BIT" and not any(others):
        return "{}"
    given = {"body": envelope.body} if envelope.body != "7BIT" else {}
    given |= {name: value for name, value in zip(_OTHERS, others, strict=True) if value}
    return json.dumps(given)


def envelope_from(
    reverse_local: str, reverse_domain: str, parameters: str, waiting: Sequence[Waiting]
) -> Envelope:
    """The envelope of those recipients that are in ``waiting``.

    Raises:
        ValueError, TypeError, AttributeError: the row is damaged.
    """
    given = json.loads(parameters)
    others: dict[str, Any] = {name: kind(given[name]) for name, kind in _OTHERS.items() if name in given}
    return Envelope(
        reverse_path=Address(reverse_local, reverse_domain),
        recipients=tuple(one.recipient for one in waiting),
        body=str(given.get("body", "7BIT")),
        **others,
    )


WAITING_COLUMNS = (
    "number, local, domain, original_local, original_domain, orcpt, notify, attempts, reason, warned, orders"
)
"""The columns of ``recipient`` that ``waiting_from`` reads, in its order."""


def waiting_from(row: Row) -> Waiting:
    """A recipient as the spool keeps it.

    Raises:
        ValueError, TypeError: the row is damaged.
    """
    (
        number,
        local,
        domain,
        original_local,
        original_domain,
        orcpt,
        notify,
        attempts,
        reason,
        warned,
        orders,
    ) = row
    address = Address(local, domain)
    original = address if original_local is None else Address(original_local, original_domain)
    words = frozenset(notify.split(",")) if notify else frozenset()
    recipient = Recipient(number, address, original, orcpt, words)
    if not orders:
        return Waiting(recipient, attempts, reason, bool(warned))
    given = json.loads(orders)
    told = {name: str(given.get(name, "")) for name in ("hold", "bounce", "route")}
    return Waiting(recipient, attempts, reason, bool(warned), **told)
