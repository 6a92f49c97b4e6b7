"""What the owner of a mailbox is told when it is nearly full."""

from __future__ import annotations

import time
from email.utils import formatdate

from mailserver.interfaces import Delivery
from mailserver.values.address import NULL_SENDER, Address
from mailserver.values.content import MemoryContent
from mailserver.words import header_text, known, say


def quota_notice(address: Address, percent: int, hostname: str, language: str = "en") -> Delivery:
    """A message for the mailbox at ``address``; RFC 3834 marks it as nobody's to answer."""
    now = time.time()
    name = f"quota{percent}.{time.time_ns()}"
    text = say(language, "quota.text", percent=percent, hostname=hostname)
    subject = header_text(say(language, "quota.subject", percent=percent)).replace("\r\n", "\n")
    header = (
        f"Return-Path: <>\nDate: {formatdate(now)}\nMessage-ID: <{name}@{hostname}>\n"
        f"From: Mail server <postmaster@{hostname}>\nTo: <{address}>\n"
        f"Subject: {subject}\nAuto-Submitted: auto-generated\n"
        "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n"
        f"Content-Language: {known(language)}\n\n"
    )
    octets = (header + text).replace("\n", "\r\n").encode()
    return Delivery(name, b"", MemoryContent(octets), NULL_SENDER, now)
