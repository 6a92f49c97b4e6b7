"""What a program may answer, and what it may not (RFC 3834): storms of mail begin with wrong answers."""

from __future__ import annotations

import secrets
from email.message import Message
from email.parser import BytesHeaderParser

from mailserver.deliver.header import HEAD_OCTETS
from mailserver.values.address import NULL_SENDER, Address
from mailserver.values.content import Content
from mailserver.values.dates import header_date
from mailserver.values.envelope import Envelope, Recipient
from mailserver.values.text import printable
from mailserver.wire.mailboxes import UnreadableField, addresses_in

_LIST_FIELDS = (
    "List-Id",
    "List-Post",
    "List-Help",
    "List-Unsubscribe",
    "List-Subscribe",
    "List-Owner",
    "List-Archive",
)
_PROGRAMS = ("mailer-daemon", "postmaster", "majordomo", "listserv", "noreply", "no-reply", "donotreply")
_ENDINGS = ("-request", "-owner", "-bounces", "-bounce", "-relay")


def beginning_of(content: Content, most: int = HEAD_OCTETS) -> bytes:
    """The first ``most`` octets, or a little more. Raises ``OSError``."""
    pieces: list[bytes] = []
    for piece in content.chunks():
        pieces.append(piece)
        most -= len(piece)
        if most <= 0:
            break
    return b"".join(pieces)


def header_of(octets: bytes) -> Message:
    """The header at the beginning of a message."""
    return BytesHeaderParser().parsebytes(octets.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")


def may_be_answered(sender: Address, header: Message) -> bool:
    """Whether the message is a person's, so that a program may answer to its reverse-path (RFC 3834 §2)."""
    local = sender.local.lower().partition("+")[0]
    if sender == NULL_SENDER or local in _PROGRAMS or local.startswith("owner-") or local.endswith(_ENDINGS):
        return False
    if "-bounces+" in sender.local.lower() or local.startswith(("srs0", "srs1", "prvs=")):
        return False
    if str(header.get("Auto-Submitted", "no")).split(";")[0].strip().lower() != "no":
        return False
    if str(header.get("Precedence", "")).strip().lower() in ("bulk", "list", "junk"):
        return False
    if any(field in header for field in _LIST_FIELDS):
        return False
    suppressed = str(header.get("X-Auto-Response-Suppress", "")).lower()
    return not any(word in suppressed for word in ("all", "oof", "autoreply"))


def names(header: Message, addresses: set[str]) -> bool:
    """Whether one of ``addresses`` (in lower case) stands in To or Cc: who was not named was on a list, or
    got a blind copy, and answers nobody (RFC 3834 §2)."""
    for field in ("To", "Cc", "Resent-To", "Resent-Cc"):
        for value in header.get_all(field, ()):
            try:
                found = addresses_in(str(value).encode("utf-8", "surrogateescape"))
            except UnreadableField:
                continue
            if any(str(one).lower() in addresses for one in found):
                return True
    return False


def answer(
    sender: str,
    to: Address,
    subject: str,
    words: str,
    language: str,
    hostname: str,
    header: Message,
    now: float,
) -> tuple[Envelope, bytes]:
    """An automatic answer from the null sender, which nothing answers again (RFC 3834 §3)."""
    asked = printable(str(header.get("Message-ID", "")).strip(), 400)
    thread = (
        f"In-Reply-To: {asked}\nReferences: {asked}\n" if asked.isascii() and asked.startswith("<") else ""
    )
    content = (
        f"From: {sender}\n"
        f"To: <{to}>\n"
        f"Subject: {subject}\n"
        f"Date: {header_date(now)}\n"
        f"Message-ID: <{secrets.token_hex(12)}@{hostname}>\n"
        f"{thread}"
        "Auto-Submitted: auto-replied\n"
        "Precedence: bulk\n"
        "MIME-Version: 1.0\n"
        "Content-Type: text/plain; charset=utf-8\n"
        "Content-Transfer-Encoding: 8bit\n"
        f"Content-Language: {language}\n"
        f"\n{words.strip()}\n"
    )
    octets = content.replace("\r\n", "\n").replace("\n", "\r\n").encode("utf-8", "replace")
    envelope = Envelope(
        reverse_path=NULL_SENDER,
        recipients=(Recipient(0, to, to, "", frozenset({"NEVER"})),),
        body="7BIT" if octets.isascii() else "8BITMIME",
        smtputf8=not to.is_ascii,
    )
    return envelope, octets
