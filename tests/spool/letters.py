"""Envelopes and outcomes for the spool's tests."""

from __future__ import annotations

from collections.abc import Sequence

from mailserver.interfaces import ISpool
from mailserver.values.address import Address
from mailserver.values.envelope import Entry, Envelope, Recipient, Waiting
from mailserver.values.outcome import Delayed, Delivered, Failed

WAIT = 20.0
"""Seconds after which a future that is not done is a failure of the test."""


def envelope(count: int = 1, domain: str = "b.test") -> Envelope:
    """A plain envelope to ``user0``, ``user1``, … at ``domain``."""
    addresses = [Address(f"user{n}", domain) for n in range(count)]
    return Envelope(Address("ada", "a.test"), tuple(Recipient(n, a, a) for n, a in enumerate(addresses)))


def spooled(
    spool: ISpool, octets: bytes = b"Subject: x\r\n\r\nhello\r\n", what: Envelope | None = None
) -> Entry:
    """A message, committed and leased to us."""
    writer = spool.begin()
    for start in range(0, len(octets), 50_000):
        room = writer.write(octets[start : start + 50_000])
        if room is not None:
            room.result(WAIT)
    return writer.commit(what or envelope()).result(WAIT)


def octets_of(entry: Entry) -> bytes:
    return b"".join(entry.content.chunks())


def due(spool: ISpool, now: float = 1e12, limit: int = 100) -> Sequence[Entry]:
    return spool.due(now, limit).result(WAIT)


def delivered(waiting: Waiting) -> Delivered:
    return Delivered(recipient=waiting.recipient, status="2.0.0", diagnostic="here", relay="maildir")


def failed(waiting: Waiting) -> Failed:
    return Failed(recipient=waiting.recipient, status="5.1.1", diagnostic="nobody")


def delayed(waiting: Waiting, retry_at: float, diagnostic: str = "busy", warned: bool = False) -> Delayed:
    return Delayed(
        recipient=waiting.recipient, status="4.4.1", diagnostic=diagnostic, retry_at=retry_at, warned=warned
    )
