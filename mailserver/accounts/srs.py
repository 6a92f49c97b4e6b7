"""The Sender Rewriting Scheme: a forward's reverse-path in a domain of ours, and back (Wong, 2004).

``SRS0=HHHH=TT=domain=local@ours`` for a sender elsewhere, ``SRS1=HHHH=domain==…@ours`` for one that
another forwarder has rewritten before, so that the path does not grow with each forward.  HHHH is a
keyed digest: nobody else can make us relay.  TT is the day, modulo 1024, in base 32.
"""

from __future__ import annotations

import hmac
import re
from base64 import b32encode
from collections.abc import Callable

from mailserver.values.address import Address, domain_key

DAYS = 21
"""How long a rewritten path leads back."""

LONGEST_LOCAL = 64
"""Octets of a local part that every server must take (RFC 5321 §4.5.3.1.1); most take more."""

_DAY = 86400
_PERIOD = 1024
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_FIRST = re.compile(r"SRS0[=+-]([A-Z2-7]{6})=([A-Z2-7]{2})=([^=@]+)=(.+)", re.IGNORECASE | re.DOTALL)
_AGAIN = re.compile(r"SRS1[=+-]([A-Z2-7]{6})=([^=@]+)=(.+)", re.IGNORECASE | re.DOTALL)


class Srs:
    """``key`` gives the secret octets; ``now`` seconds since the epoch."""

    def __init__(self, key: Callable[[], bytes], now: Callable[[], float], days: int = DAYS) -> None:
        self._key = key
        self._now = now
        self._days = days

    def rewritten(self, sender: Address, domain: str) -> Address:
        """The reverse-path of a forward of ``sender``'s mail, in our ``domain``."""
        local = sender.local
        if again := _AGAIN.fullmatch(local):
            return self._again(again[2], again[3], domain)
        if local[:4].upper() == "SRS0" and local[4:5] in ("=", "+", "-"):
            return self._again(sender.domain, local[4:], domain)
        day = self._today() % _PERIOD
        stamp = _DIGITS[day >> 5] + _DIGITS[day & 31]
        digest = self._digest(stamp, sender.domain, local)
        return Address(f"SRS0={digest}={stamp}={sender.domain}={local}", domain)

    def sender_behind(self, address: Address) -> Address | None:
        """Whom an address made by ``rewritten`` leads back to; ``None`` for any other, and for one that
        is too old."""
        local = address.local
        if local[:3].upper() != "SRS":
            return None
        if first := _FIRST.fullmatch(local):
            digest, stamp, domain, name = first.groups()
            fits = self._fits(digest, stamp.upper(), domain, name) and self._is_recent(stamp.upper())
            return Address(name, domain) if fits else None
        if again := _AGAIN.fullmatch(local):
            digest, domain, rest = again.groups()
            return Address(f"SRS0{rest}", domain) if self._fits(digest, domain, rest) else None
        return None

    def _again(self, domain: str, rest: str, ours: str) -> Address:
        return Address(f"SRS1={self._digest(domain, rest)}={domain}={rest}", ours)

    def _digest(self, *parts: str) -> str:
        # Letters lose their case on some ways: they do not count in the digest either.
        text = "\0".join((*parts[:-1], parts[-1])).lower()
        octets = hmac.digest(self._key(), text.encode("utf-8", "surrogatepass"), "sha256")
        return b32encode(octets)[:6].decode()

    def _fits(self, digest: str, *parts: str) -> bool:
        return hmac.compare_digest(digest.upper(), self._digest(*parts))

    def _today(self) -> int:
        return int(self._now() // _DAY)

    def _is_recent(self, stamp: str) -> bool:
        made = _DIGITS.index(stamp[0]) << 5 | _DIGITS.index(stamp[1])
        return (self._today() - made) % _PERIOD <= self._days


def needs_rewriting(sender: Address, domains: Callable[[str], bool]) -> bool:
    """Whether a forward of ``sender``'s mail needs another reverse-path: it is somebody elsewhere."""
    return bool(sender.domain) and not domains(domain_key(sender.domain))
