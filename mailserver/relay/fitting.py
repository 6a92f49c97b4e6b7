"""What the next server must offer for a message, and what is done where it does not."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from twisted.internet.task import deferLater

from mailserver.values.address import domain_key
from mailserver.values.content import Content, MemoryContent
from mailserver.values.envelope import Entry, Envelope, Recipient
from mailserver.wire.client_commands import Extensions, deliver_by, needs_smtputf8
from mailserver.wire.seven_bit import NotReencodable, in_seven_bits

REENCODED_OCTETS = 10 * 1024 * 1024
"""Content larger than this is returned rather than re-encoded."""
HEADER_OCTETS = 1024 * 1024
"""A header that goes on for longer is not searched for letters outside ASCII."""

_CHUNKS_A_TURN = 16
_NO_SMTPUTF8 = "the next server does not take internationalized addresses or headers (SMTPUTF8)"


class Unfit(Exception):
    """The message cannot be given to this server in any form; ``status`` is for the report."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True, slots=True)
class UnfitRecipient:
    """A recipient whom this server cannot be given this message for."""

    recipient: Recipient
    status: str
    reason: str


def as_international_as_it_is(entry: Entry) -> Entry:
    """The entry without SMTPUTF8 where its sender's path and its header need none: many clients say it of
    every message, and the next server without it would cost their mail (RFC 6531 §3.2 speaks of what a
    message holds)."""
    envelope = entry.envelope
    try:
        is_plain = envelope.reverse_path.local.isascii() and _has_ascii_header(entry.content)
    except OSError:
        return entry  # whoever sends the content meets the same, and says so
    return replace(entry, envelope=replace(envelope, smtputf8=False)) if is_plain else entry


def _has_ascii_header(content: Content) -> bool:
    start = b""
    for chunk in content.chunks():
        start += chunk
        end = start.find(b"\r\n\r\n")
        if len(start) > HEADER_OCTETS and end < 0:
            return False
        if end >= 0 or not start.isascii():
            return start[: end if end >= 0 else len(start)].isascii()
    return True


def transaction_of(
    entry: Entry, pending: Sequence[Recipient], extensions: Extensions
) -> tuple[list[Recipient], list[UnfitRecipient]]:
    """The recipients of the next transaction with this server, and those that can never be in one."""
    size = entry.content.size
    if extensions.size_limit and size > extensions.size_limit:
        words = f"the message has {size} octets, the next server takes {extensions.size_limit}"
        return [], [UnfitRecipient(one, "5.3.4", words) for one in pending]
    if entry.envelope.by_mode and deliver_by(entry.envelope, extensions, time.time()) is None:
        words = "the next server promises no delivery in the time that is left (DELIVERBY)"
        return [], [UnfitRecipient(one, "5.4.7", words) for one in pending]
    fit, unfit = list(pending), []
    if not extensions.smtputf8:
        all_need_it = needs_smtputf8(entry.envelope)
        unfit = [
            UnfitRecipient(one, "5.6.7", _NO_SMTPUTF8)
            for one in pending
            if all_need_it or not one.address.local.isascii()
        ]
        if unfit:
            out = {one.recipient.number for one in unfit}
            fit = [one for one in pending if one.number not in out]
    return _within_limits(fit, extensions), unfit


def _within_limits(recipients: list[Recipient], extensions: Extensions) -> list[Recipient]:
    """As many as the server says one transaction may have (RFC 9422 §4)."""
    if extensions.most_domains:
        domains: set[str] = set()
        taken = []
        for one in recipients:
            domain = domain_key(one.address.domain)
            if domain in domains or len(domains) < extensions.most_domains:
                domains.add(domain)
                taken.append(one)
        recipients = taken
    return recipients[: extensions.most_recipients] if extensions.most_recipients else recipients


@dataclass(frozen=True, slots=True)
class PrefixedContent:
    """Content with a field of its own before its header."""

    field: bytes
    content: Content

    @property
    def size(self) -> int:
        return len(self.field) + self.content.size

    def chunks(self) -> Iterator[bytes]:
        yield self.field
        yield from self.content.chunks()


def with_priority(content: Content, envelope: Envelope, extensions: Extensions) -> Content:
    """The priority in the header, for a server that knows no MT-PRIORITY (RFC 6758 §3.3).

    What came in with a field of its own has lost it on the way in (``receive/header.py``).
    """
    if not envelope.priority or "MT-PRIORITY" in extensions.keywords:
        return content
    return PrefixedContent(b"MT-Priority: %d\r\n" % envelope.priority, content)


async def fitted_content(
    entry: Entry,
    extensions: Extensions,
    reactor: Any,
    in_thread: Callable[..., Awaitable[Any]] | None,
) -> tuple[Content, Envelope]:
    """The content and envelope for a server without 8BITMIME, or for binary content.

    Raises:
        Unfit: it is signed, too large, or no MIME (RFC 6152 §3: convert, or return it).
        OSError: our own copy cannot be read.
    """
    envelope, content = entry.envelope, entry.content
    binary = envelope.body == "BINARYMIME"
    if binary and extensions.binary:
        return content, envelope
    if not binary and not await _has_eight_bit(content, reactor):
        return content, envelope
    what = "binary" if binary else "8-bit"
    if content.size > REENCODED_OCTETS:
        words = f"the next server does not take {what} content, and this is too much to re-encode"
        raise Unfit("5.6.3", words)
    octets = b"".join(content.chunks())
    try:
        converted = in_seven_bits(octets) if in_thread is None else await in_thread(in_seven_bits, octets)
    except NotReencodable as error:
        raise Unfit("5.6.3", f"the next server does not take {what} content, and {error}") from None
    return MemoryContent(converted), replace(envelope, body="7BIT")


async def _has_eight_bit(content: Content, reactor: Any) -> bool:
    """Whether any octet is above 127; the reactor gets its turn during a large file."""
    for number, chunk in enumerate(content.chunks(), 1):
        if not chunk.isascii():
            return True
        if number % _CHUNKS_A_TURN == 0:
            await deferLater(reactor, 0)
    return False
