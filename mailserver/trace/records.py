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


_quoted = json.encoder.encode_basestring_ascii

Seen = tuple[str, str, int, str, str, float, Any, Any, Any]
"""Of a session: role, host, port, client's name, EHLO, beginning, TLS, account, notes of rules."""


def accepted(
    id_: str, moment: float, envelope: Envelope, message_id: str, size: int, how: str, seen: Seen | None
) -> str:
    """The record of a message that is ours. Put together by hand: an encoder takes five times as long, and
    three digits of a float longer than those of an integer.

    ``to`` has each recipient as ``[number, address]``, and the original where it is another.
    """
    text = (
        f'{{"q":"{id_}","t":{int(moment * 1000)}e-3,"e":"accepted",'
        f'"from":{_quoted(str(envelope.reverse_path))},'
        f'"to":[{",".join([_recipient(one) for one in envelope.recipients])}],"size":{size}'
    )
    if message_id:
        text += f',"id":{_quoted(message_id)}'
    if how:
        text += f',"how":{_quoted(how)}'
    if envelope.hold:
        text += f',"hold":{_quoted(envelope.hold)}'
    if envelope.release_at:
        text += f',"release":{envelope.release_at:.3f}'
    if seen is not None:
        text += _session(seen)
    return f"{text}}}\n"


def _session(seen: Seen) -> str:
    role, host, port, name, hello, began, tls, account, notes = seen
    text = (
        f',"role":"{role}","client":[{_quoted(host)},{port},{_quoted(name)}],"hello":{_quoted(hello)},'
        f'"began":{int(began * 1000)}e-3,'
        f'"tls":{_quoted(f"{tls.version} {tls.cipher}") if tls is not None else _NOTHING}'
    )
    if account is not None:
        text += f',"user":{_quoted(str(account.address))}'
    if notes:
        text += f',"notes":{_encode(list(notes))}'
    return text


_NOTHING = '""'


def _recipient(recipient: Recipient) -> str:
    address, original = recipient.address, recipient.original
    if original is address or original == address:
        return f"[{recipient.number},{_quoted(str(address))}]"
    return f"[{recipient.number},{_quoted(str(address))},{_quoted(str(original))}]"


def attempted(id_: str, moment: float, outcomes: Sequence[Outcome]) -> str:
    """The record of an attempt. ``to``: what became of each recipient; ``tries``: each address that was
    tried, with its dialogue."""
    told = ",".join([_outcome(one) for one in outcomes])
    text = f'{{"q":"{id_}","t":{int(moment * 1000)}e-3,"e":"attempt","to":[{told}]'
    if outcomes and outcomes[0].facts is not None:
        tried = {id(one.facts): one.facts for one in outcomes if one.facts is not None}
        tries = [attempt.fields() for facts in tried.values() for attempt in facts.attempts]
        text += f',"tries":{_encode(tries)}'
    return f"{text}}}\n"


def _outcome(outcome: Outcome) -> str:
    recipient, kind = outcome.recipient, type(outcome)
    retry = f',"retry":{outcome.retry_at:.3f}' if kind is Delayed else ""  # type: ignore[union-attr]
    return (
        f'{{"n":{recipient.number},"to":{_quoted(str(recipient.address))},"what":"{_KINDS[kind]}",'
        f'"status":{_quoted(outcome.status)},"said":{_quoted(outcome.diagnostic[:TEXT])},'
        f'"relay":{_quoted(outcome.relay)}{retry}}}'
    )
