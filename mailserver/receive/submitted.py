"""The header of a submitted message: whose it is, and what it lacks (RFC 6409 §6.1, §8)."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable

from mailserver import maillog
from mailserver.values.address import Address
from mailserver.values.dates import header_date
from mailserver.values.reply import Reply, reply
from mailserver.values.text import printable
from mailserver.wire.mailboxes import UnreadableField, addresses_in

_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:")

HEADER_OCTETS = 256 * 1024
"""The longest header of a submission, which is kept in memory until it is complete."""

_TOO_LONG = reply(552, "5.3.4", f"The header of a submitted message has at most {HEADER_OCTETS} octets")


_TRY_LATER = reply(451, "4.3.0", "Local error, nothing was kept; please try again later")


class SubmittedHeader:
    """Holds the header back until it is complete, then passes it on with what it lacked.

    ``may_use`` tells whether ``author``, who has logged in, may write as an address.  ``refusal``
    is the reply to the end of data when they may not; nothing but Date, Message-ID and Sender is
    ever added or changed.
    """

    def __init__(self, author: Address, may_use: Callable[[Address], bool], hostname: str) -> None:
        self.refusal: Reply | None = None
        self._author = author
        self._may_use = may_use
        self._hostname = hostname
        self._held = bytearray()
        self._searched = 0
        self._ended = False

    def feed(self, chunk: bytes) -> bytes:
        """The octets to go on with; none while the header is not complete."""
        if self._ended:
            return chunk
        self._held += chunk
        if self._held.startswith(b"\r\n"):
            return self._complete()
        # The end may have begun in an earlier chunk.
        found = self._held.find(b"\r\n\r\n", max(0, self._searched - 3))
        self._searched = len(self._held)
        if found >= 0:
            return self._complete()
        if len(self._held) > HEADER_OCTETS:
            self.refusal = _TOO_LONG
            return self._release()
        return b""

    def finish(self) -> bytes:
        """What was held back, at the end of the content."""
        return b"" if self._ended else self._complete()

    def _release(self) -> bytes:
        self._ended = True
        held, self._held = bytes(self._held), bytearray()
        return held

    def _complete(self) -> bytes:
        octets = self._release()
        fields, end = _fields(octets)
        rest = octets[end:]
        try:
            self._check_authors([body for name, _, body in fields if name == b"from"])
            added = self._missing(fields)
        except UnreadableField as error:
            self.refusal = reply(550, "5.6.0", f"From or Sender cannot be read: {printable(str(error), 100)}")
            return octets
        except Exception as error:  # the directory cannot be read
            maillog.fault("looking whose a message is", error)
            self.refusal = _TRY_LATER
            return octets
        header = b"".join([raw for name, raw, _ in fields if name != b"sender" or self._keeps_sender])
        # Without this line, a reader with other habits could find a second From in the text.
        gap = b"\r\n" if rest and not rest.startswith(b"\r\n") else b""
        return header + added + gap + rest

    def _check_authors(self, bodies: list[bytes]) -> None:
        self._authors = [address for body in bodies for address in addresses_in(body)]
        for address in self._authors:
            if not self._is_mine(address):
                self.refusal = reply(
                    550,
                    "5.7.1",
                    f"From: <{printable(str(address), 100)}> is not an address of <{self._author}>, "
                    "who is logged in",
                )
                return

    def _is_mine(self, address: Address) -> bool:
        return self._may_use(address if address.domain else Address(address.local, self._author.domain))

    def _missing(self, fields: list[tuple[bytes, bytes, bytes]]) -> bytes:
        names = {name for name, _, _ in fields}
        now = time.time()
        added = b""
        if b"date" not in names:
            added += f"Date: {header_date(now)}\r\n".encode()
        if b"message-id" not in names:
            added += f"Message-ID: <{int(now * 1e6):x}.{os.urandom(8).hex()}@{self._hostname}>\r\n".encode()
        senders = [address for name, _, body in fields if name == b"sender" for address in addresses_in(body)]
        self._keeps_sender = len(senders) == 1 and self._is_mine(senders[0])
        # Several authors need one who has sent it (RFC 5322 §3.6.2); a wrong name becomes the right one.
        if not self._keeps_sender and (b"sender" in names or len(self._authors) > 1):
            added += f"Sender: {self._author}\r\n".encode()
        return added


def _fields(octets: bytes) -> tuple[list[tuple[bytes, bytes, bytes]], int]:
    """Each field as (name in lower case, all its octets, its body), and where the header ends: at an
    empty line, or at one that is no field."""
    fields: list[tuple[bytes, bytes, bytes]] = []
    start = 0
    while start < len(octets):
        end = octets.find(b"\r\n", start)
        end = len(octets) if end < 0 else end + 2
        line = octets[start:end]
        found = _FIELD.match(line)
        if found is not None:
            fields.append((found[1].lower(), line, line[found.end() :]))
        elif fields and line[:1] in (b" ", b"\t"):
            name, raw, body = fields[-1]
            fields[-1] = name, raw + line, body + line
        else:
            break
        start = end
    return fields, start
