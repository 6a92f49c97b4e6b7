"""What the SMTP client says: EHLO's answer read, and the MAIL and RCPT that fit it."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mailserver.values.address import Address, domain_key
from mailserver.values.envelope import Envelope, Recipient
from mailserver.wire.grammar import to_xtext

_UNFIT = re.compile(r"[\x00-\x20\x7f]")


@dataclass(frozen=True, slots=True)
class Extensions:
    """What EHLO announced: keywords in capitals, with their arguments."""

    keywords: Mapping[str, str] = field(default_factory=dict)
    pipelining: bool = False
    eight_bit: bool = False
    smtputf8: bool = False
    dsn: bool = False
    size: bool = False
    size_limit: int = 0
    """Octets; 0 when none was told (RFC 1870 §3)."""
    chunking: bool = False
    binary: bool = False
    """BINARYMIME, which is of no use without CHUNKING (RFC 3030 §3)."""
    most_transactions: int = 0
    most_recipients: int = 0
    most_domains: int = 0
    """LIMITS: in a session; in a transaction; recipients' domains in one; 0: not told (RFC 9422)."""


def extensions_from(lines: Sequence[str]) -> Extensions:
    """The extensions in the lines of an EHLO reply, the first of which is the host's name."""
    keywords: dict[str, str] = {}
    for line in lines[1:]:
        keyword, _, argument = line.strip().partition(" ")
        keywords.setdefault(keyword.upper(), argument.strip())
    limits = dict(word.partition("=")[::2] for word in keywords.get("LIMITS", "").upper().split())
    return Extensions(
        keywords=keywords,
        pipelining="PIPELINING" in keywords,
        eight_bit="8BITMIME" in keywords,
        smtputf8="SMTPUTF8" in keywords,
        dsn="DSN" in keywords,
        size="SIZE" in keywords,
        size_limit=_number(keywords.get("SIZE", "")),
        chunking="CHUNKING" in keywords,
        binary="BINARYMIME" in keywords and "CHUNKING" in keywords,
        most_transactions=_number(limits.get("MAILMAX", "")),
        most_recipients=_number(limits.get("RCPTMAX", "")),
        most_domains=_number(limits.get("RCPTDOMAINMAX", "")),
    )


def _number(text: str) -> int:
    """A number, or 0 for anything else. ``isdecimal`` alone would let through digits of other scripts;
    twenty digits are RFC 1870's most."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 20 else 0


def needs_smtputf8(envelope: Envelope) -> bool:
    """Whether no recipient can be served by a host without SMTPUTF8 (RFC 6531 §3.4)."""
    return envelope.smtputf8 or not envelope.reverse_path.local.isascii()


def speakable(address: Address) -> bool:
    """Whether the address can stand in a command at all: no control characters, no line ends."""
    text = str(address)
    domain = address.domain
    return text.isprintable() and " " not in domain and "<" not in domain and ">" not in domain


def _path(address: Address, smtputf8: bool) -> str:
    """The address in angle brackets; without SMTPUTF8 the domain in A-labels (RFC 6531 §3.2)."""
    if not smtputf8 and not address.domain.isascii():
        address = Address(address.local, domain_key(address.domain))
    return f"<{address}>"


def deliver_by(envelope: Envelope, extensions: Extensions, now: float) -> str | None:
    """What BY says to this server, ``""`` where it says nothing, or ``None``: the server promises
    nothing in so short a time, and the message must return then (RFC 2852 §3, §4).

    A server without DELIVERBY gets the message all the same; its sender hears that it was relayed.
    """
    least = extensions.keywords.get("DELIVERBY")
    if not envelope.by_mode or least is None:
        return ""
    seconds = int(envelope.deliver_by - now)
    if envelope.by_mode.startswith("R"):
        if seconds < _number(least):
            return None
        seconds = max(1, seconds)
    return f"BY={seconds};{envelope.by_mode}"


def _extras(envelope: Envelope, extensions: Extensions, authenticated: bool, now: float) -> list[str]:
    """The rarer parameters: RFC 2852, RFC 6710, RFC 4954 §5 (to servers that know us alone)."""
    words = []
    if by := deliver_by(envelope, extensions, now):
        words.append(by)
    if envelope.priority and "MT-PRIORITY" in extensions.keywords:
        words.append(f"MT-PRIORITY={envelope.priority}")
    if envelope.auth.isascii() and authenticated and envelope.auth:
        words.append(f"AUTH={to_xtext(envelope.auth)}")
    return words


def mail_command(
    envelope: Envelope,
    size: int,
    extensions: Extensions,
    smtputf8: bool,
    require_tls: bool = False,
    authenticated: bool = False,
) -> str:
    """MAIL with the parameters that the server knows (RFC 1870, RFC 6152, RFC 6531, RFC 3461)."""
    words = [f"MAIL FROM:{_path(envelope.reverse_path, smtputf8)}"]
    if extensions.size:
        words.append(f"SIZE={size}")
    if extensions.eight_bit and envelope.body != "7BIT":
        binary = envelope.body == "BINARYMIME" and extensions.binary
        words.append("BODY=BINARYMIME" if binary else "BODY=8BITMIME")
    if smtputf8:
        words.append("SMTPUTF8")
    if require_tls and "REQUIRETLS" in extensions.keywords:
        words.append("REQUIRETLS")  # RFC 8689 §4.2.1
    if extensions.dsn:
        if envelope.ret:
            words.append(f"RET={envelope.ret}")
        if envelope.envid and not _UNFIT.search(envelope.envid):
            words.append(f"ENVID={envelope.envid}")
    if envelope.by_mode or envelope.priority or envelope.auth:
        words += _extras(envelope, extensions, authenticated, time.time())
    return " ".join(words)


def rcpt_command(recipient: Recipient, extensions: Extensions, smtputf8: bool) -> str:
    """RCPT, with NOTIFY and ORCPT unchanged to a server that knows DSN (RFC 3461 §5.2.1)."""
    command = f"RCPT TO:{_path(recipient.address, smtputf8)}"
    if extensions.dsn:
        if recipient.notify:
            command += f" NOTIFY={','.join(sorted(recipient.notify))}"
        sayable = smtputf8 or recipient.orcpt.isascii()
        if recipient.orcpt and sayable and not _UNFIT.search(recipient.orcpt):
            command += f" ORCPT={recipient.orcpt}"
    return command
