"""The form in which mail leaves SMTP: its final header, the marks of a loop, and Unix line ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mailserver.deliver.header import delivered_to, has_delivery_fields, head_of, without_return_path
from mailserver.values.content import Content
from mailserver.values.envelope import Entry, Recipient
from mailserver.values.outcome import Failed
from mailserver.values.trace import return_path


@dataclass(frozen=True, slots=True)
class FinalForm:
    """A message on its last way: ``content`` without Return-Path fields; ``been_to``, in lower case, are
    the addresses that it has been delivered to before."""

    content: Content
    been_to: frozenset[bytes]

    def loop_at(self, recipient: Recipient) -> Failed | None:
        """The outcome for a recipient who has had the message before."""
        address = public_address(recipient)
        if not self.been_to or address.lower().encode() not in self.been_to:
            return None
        looped = f"the message has been delivered to {address} before: a mail loop"
        return Failed(recipient=recipient, status="5.4.6", diagnostic=looped)


def final_form(entry: Entry) -> FinalForm:
    """Raises ``OSError`` when the content cannot be read."""
    head = head_of(entry.content)
    if not has_delivery_fields(head):
        return FinalForm(entry.content, frozenset())
    return FinalForm(without_return_path(entry.content, head), frozenset(delivered_to(head)))


def final_header(entry: Entry, recipient: Recipient) -> bytes:
    """What final delivery puts first: Return-Path (RFC 5321 §4.4), and the mark that stops loops."""
    return (
        return_path(entry.envelope.reverse_path) + f"Delivered-To: {public_address(recipient)}\r\n".encode()
    )


def public_address(recipient: Recipient) -> str:
    """The recipient's address; for a command or file behind an alias, the alias's: what an administrator
    runs is nobody's business."""
    return str(recipient.address if recipient.address.domain else recipient.original)


def was_tried(entry: Entry, recipient: Recipient) -> bool:
    """Whether an earlier attempt may have left something behind."""
    return entry.recovered or any(
        waiting.attempts for waiting in entry.waiting if waiting.recipient.number == recipient.number
    )


def with_unix_line_ends(header: bytes, content: Content) -> Iterator[bytes]:
    """Header and content as programs here read them: LF alone."""
    yield header.replace(b"\r\n", b"\n")
    held = b""
    for piece in content.chunks():
        octets = held + piece if held else piece
        held = b"\r" if octets.endswith(b"\r") else b""
        yield (octets[:-1] if held else octets).replace(b"\r\n", b"\n")
    if held:
        yield held
