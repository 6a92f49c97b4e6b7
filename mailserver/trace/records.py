"""Events in a message's life as records: one JSON object each, made in the recorder's thread.

Every record has ``q`` (a queue id, or the mark of a refusal), ``t`` (seconds since the epoch) and ``e``
(what happened).  Passwords, AUTH lines and content never get here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mailserver.values.envelope import Envelope, Recipient
from mailserver.values.outcome import Delayed, Delivered, Expanded, Failed, Outcome, Relayed
from mailserver.values.text import printable

_KINDS = {
    Delivered: "delivered",
    Relayed: "relayed",
    Expanded: "expanded",
    Delayed: "delayed",
    Failed: "failed",
}

ENDS = frozenset({"delivered", "relayed", "expanded", "failed"})
"""What a recipient can come to in an attempt; after ``delayed`` it waits on."""

TEXT = 500

_encode = json.JSONEncoder(separators=(",", ":"), default=str).encode


def line(id_: str, moment: float, event: str, fields: Mapping[str, Any]) -> bytes:
    """One record, with its line end."""
    told = {"q": id_, "t": round(moment, 4), "e": event, **fields}
    return _encode(told).encode() + b"\n"


def envelope_fields(envelope: Envelope, size: int) -> dict[str, Any]:
    """Who writes to whom; each recipient as ``[number, address]``, and the original where it is another."""
    fields: dict[str, Any] = {
        "from": str(envelope.reverse_path),
        "to": [_recipient(one) for one in envelope.recipients],
        "size": size,
    }
    if envelope.hold:
        fields["hold"] = envelope.hold
    if envelope.release_at:
        fields["release"] = envelope.release_at
    return fields


def _recipient(recipient: Recipient) -> list[Any]:
    address, original = recipient.address, recipient.original
    if original is address or original == address:
        return [recipient.number, str(address)]
    return [recipient.number, str(address), str(original)]


def outcome_fields(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """``to``: what became of each recipient; ``tries``: each address that was tried, with its dialogue."""
    tried: dict[int, Any] = {}
    told = []
    for outcome in outcomes:
        facts = outcome.facts
        if facts is not None and facts.attempts:
            tried[id(facts)] = facts
        told.append(_outcome(outcome))
    fields: dict[str, Any] = {"to": told}
    if tried:
        fields["tries"] = [attempt.fields() for facts in tried.values() for attempt in facts.attempts]
    return fields


def _outcome(outcome: Outcome) -> dict[str, Any]:
    recipient = outcome.recipient
    told: dict[str, Any] = {
        "n": recipient.number,
        "to": str(recipient.address),
        "what": _KINDS[type(outcome)],
        "status": outcome.status,
        "said": printable(outcome.diagnostic, TEXT),
        "relay": outcome.relay,
    }
    if isinstance(outcome, Delayed):
        told["retry"] = outcome.retry_at
    return told
