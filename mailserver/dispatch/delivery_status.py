"""The part of a DSN that programs read: message/delivery-status (RFC 3464 §2, RFC 6533 §3)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mailserver.values.address import Address
from mailserver.values.dates import header_date
from mailserver.values.envelope import Entry, Recipient
from mailserver.values.outcome import Delayed, Delivered, Expanded, Failed, Outcome, Relayed
from mailserver.values.text import printable
from mailserver.wire.grammar import from_xtext

_STATUS = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}")
_UTF8_PAIR = re.compile(r"\\x\{([0-9A-F]{2,6})\}")  # RFC 6533 §3, utf-8-addr-xtext
# By kind of outcome: the Action (RFC 3464 §2.3.3) and the status where the server's own is none.
_ACTIONS: dict[type[Outcome], tuple[str, str]] = {
    Delivered: ("delivered", "2.0.0"),
    Relayed: ("relayed", "2.0.0"),
    Expanded: ("expanded", "2.0.0"),
    Delayed: ("delayed", "4.0.0"),
    Failed: ("failed", "5.0.0"),
}
_FIELD_OCTETS = 900  # with its name under the 998 of RFC 5322 §2.1.1


def is_international(entry: Entry, recipients: Sequence[Recipient]) -> bool:
    """Whether an address of the report is outside ASCII, so that RFC 6533's media types are needed."""
    return not all(
        recipient.address.is_ascii and recipient.original.is_ascii and original_recipient(recipient).isascii()
        for recipient in recipients
    )


def delivery_status(
    entry: Entry, outcomes: Sequence[Outcome], hostname: str, now: float, gives_up_at: float | None
) -> bytes:
    """The body part for outcomes of one kind: a block for the message, one for each recipient.

    ``now`` and ``gives_up_at`` in seconds since the epoch; the second stands in reports of a delay.
    """
    utf8 = is_international(entry, [outcome.recipient for outcome in outcomes])
    blocks = [_message_fields(entry, hostname)]
    blocks += [_recipient_fields(outcome, now, gives_up_at) for outcome in outcomes]
    # An empty line stands between blocks, not after the last: a parser would see a recipient there.
    texts = ("".join(_field(name, value, utf8) for name, value in block) for block in blocks)
    return "\r\n".join(texts).encode("utf-8", "replace")


def _message_fields(entry: Entry, hostname: str) -> list[tuple[str, str]]:
    fields = [("Reporting-MTA", f"dns; {hostname}")]
    if entry.envelope.envid:
        fields.append(("Original-Envelope-Id", from_xtext(entry.envelope.envid.encode("utf-8", "replace"))))
    fields.append(("Arrival-Date", header_date(entry.arrived)))
    return fields


def _recipient_fields(outcome: Outcome, now: float, gives_up_at: float | None) -> list[tuple[str, str]]:
    recipient = outcome.recipient
    fields = []
    original = original_recipient(recipient)
    if original:
        fields.append(("Original-Recipient", original))
    action, fallback = _ACTIONS[type(outcome)]
    fields += [
        # What an alias runs or writes to has no domain, and is nobody's business.
        ("Final-Recipient", _typed(recipient.address if recipient.address.domain else recipient.original)),
        ("Action", action),
        # A status that a reader of RFC 3463 accepts, whatever the remote server said.
        ("Status", outcome.status if _STATUS.fullmatch(outcome.status) else fallback),
    ]
    if outcome.remote_mta:
        fields.append(("Remote-MTA", f"dns; {outcome.remote_mta}"))
    # Only what a server said over SMTP may be called smtp (RFC 3464 §2.3.6).
    kind = "smtp" if outcome.remote_mta else "x-mailserver"
    if outcome.remote_mta or action in ("delayed", "failed"):
        fields.append(("Diagnostic-Code", f"{kind}; {outcome.diagnostic}"))
    fields.append(("Last-Attempt-Date", header_date(now)))
    if action == "delayed" and gives_up_at is not None:
        fields.append(("Will-Retry-Until", header_date(gives_up_at)))
    return fields


def original_recipient(recipient: Recipient) -> str:
    """The value of Original-Recipient: ORCPT, or the address that the client gave when an alias
    has led to another; ``""`` when there is nothing to add (RFC 3464 §2.3.1)."""
    kind, semicolon, address = recipient.orcpt.partition(";")
    if semicolon:
        plain = from_xtext(address.encode("utf-8", "replace"))
        if kind.lower() == "utf-8":
            plain = _UTF8_PAIR.sub(_character, plain)
        return f"{kind}; {plain}"
    return "" if recipient.original == recipient.address else _typed(recipient.original)


def _character(pair: re.Match[str]) -> str:
    number = int(pair[1], 16)
    return chr(number) if number < 0x110000 and not 0xD800 <= number < 0xE000 else "?"


def _typed(address: Address) -> str:
    return f"{'rfc822' if address.is_ascii else 'utf-8'}; {address}"


def _field(name: str, value: str, utf8: bool) -> str:
    text = printable(value, _FIELD_OCTETS // 4 if utf8 else _FIELD_OCTETS // 2)
    if not utf8:
        text = text.encode("ascii", "replace").decode("ascii")
    return f"{name}: {text}\r\n"
