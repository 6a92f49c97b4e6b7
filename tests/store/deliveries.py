"""Deliveries and mailboxes as the store's tests make them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mailserver.durable import Disk
from mailserver.interfaces import Delivery, IMailbox, IMaildrop
from mailserver.store.mailstore import MailStore
from mailserver.values.account import Account
from mailserver.values.address import Address
from mailserver.values.content import Content, MemoryContent

ADA = Account(Address("ada", "example.test"))
SENDER = Address("bob", "elsewhere.test")
HEADER = b"Return-Path: <bob@elsewhere.test>\r\nDelivered-To: ada@example.test\r\n"
ARRIVED = 1732304677.25
SOON = 10.0
"""Seconds that a future may take on a slow machine."""


def content_of(number: int, body: bytes = b"Hello.\r\n") -> MemoryContent:
    """A whole message, different for each number, as the spool gives it."""
    return MemoryContent(b"Received: by mx id q%d\r\nSubject: number %d\r\n\r\n" % (number, number) + body)


def delivery_of(number: int, content: Content | None = None, repeated: bool = False) -> Delivery:
    return Delivery(f"q{number}.0", HEADER, content or content_of(number), SENDER, ARRIVED + number, repeated)


def sent_form(delivery: Delivery) -> bytes:
    """What POP3 must give back for a delivery."""
    return delivery.header + b"".join(delivery.content.chunks())


def deliver(mailbox: IMailbox, *deliveries: Delivery) -> None:
    for future in [mailbox.deliver(delivery) for delivery in deliveries]:
        future.result(SOON)


def contents(drop: IMaildrop) -> list[bytes]:
    return [b"".join(drop.read(index)) for index in range(len(drop.listings))]


@contextmanager
def opened(mailbox: IMailbox) -> Iterator[IMaildrop]:
    drop = mailbox.maildrop()
    try:
        yield drop
    finally:
        drop.release()


@contextmanager
def store_at(root: Path, format: str, disk: Disk | None = None, patience: float = 0.2) -> Iterator[MailStore]:
    """A store that serves, for accounts without a format of their own."""
    disk = disk or Disk()
    store = MailStore(root, format, disk, "mx.example.test", patience=patience)
    store.start()
    try:
        yield store
    finally:
        store.stop()
        disk.close()
