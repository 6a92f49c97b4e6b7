"""What the owner of a mailbox is told when it is nearly full."""

from __future__ import annotations

import time
from email.utils import formatdate

from mailserver.interfaces import Delivery
from mailserver.values.address import NULL_SENDER, Address
from mailserver.values.content import MemoryContent

_TEXT = """Your mailbox has reached {percent} % of the room that it may take on {hostname}.

When it is full, no more mail can be delivered to it. Please remove messages that you do
not need any more; with a program that keeps copies on the server, shorten the time for
which it does.
"""


def quota_notice(address: Address, percent: int, hostname: str) -> Delivery:
    """A message for the mailbox at ``address``; RFC 3834 marks it as nobody's to answer."""
    now = time.time()
    name = f"quota{percent}.{time.time_ns()}"
    text = _TEXT.format(percent=percent, hostname=hostname)
    header = (
        f"Return-Path: <>\nDate: {formatdate(now)}\nMessage-ID: <{name}@{hostname}>\n"
        f"From: Mail server <postmaster@{hostname}>\nTo: <{address}>\n"
        f"Subject: Your mailbox is {percent} % full\nAuto-Submitted: auto-generated\n"
        "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n\n"
    )
    octets = (header + text).replace("\n", "\r\n").encode()
    return Delivery(name, b"", MemoryContent(octets), NULL_SENDER, now)
