"""Addresses, links and confirmations of mailing lists that nobody else can make."""

from __future__ import annotations

import hmac
from base64 import b32encode
from collections.abc import Callable
from urllib.parse import urlencode

from mailserver.accounts.names import local_key
from mailserver.values.account import MailingList
from mailserver.values.address import Address, domain_key

CONFIRM_DAYS = 7
"""How long a request can be confirmed."""

_DAY = 86400


class ListTokens:
    """``key`` gives secret octets, ``now`` seconds since the epoch; ``page`` is ``lists.unsubscribe_url``."""

    def __init__(self, key: Callable[[], bytes], now: Callable[[], float], page: str = "") -> None:
        self._key = key
        self._now = now
        self._page = page

    def bounces(self, mailing_list: Address, member: Address | None) -> Address:
        """The reverse-path of one member's copy (VERP), or of all copies."""
        token = f"+{self._token('bounces', mailing_list, member)}" if member is not None else ""
        return Address(f"{mailing_list.local}-bounces{token}", mailing_list.domain)

    def link(self, mailing_list: Address, member: Address) -> str:
        """The page where one click leaves the list; ``""`` where there is none."""
        if not self._page:
            return ""
        fields = {
            "list": str(mailing_list),
            "member": str(member),
            "token": self._token("leave", mailing_list, member),
        }
        return f"{self._page}{'&' if '?' in self._page else '?'}{urlencode(fields)}"

    def may_leave(self, mailing_list: Address, member: Address, token: str) -> bool:
        """Whether ``token`` is that of ``link``: for whoever serves the page."""
        return hmac.compare_digest(token.encode(), self._token("leave", mailing_list, member).encode())

    def member_behind(self, mailing_list: MailingList, address: Address) -> Address | None:
        """Whose copy had this reverse-path."""
        token = address.local.partition("+")[2].lower()
        own = mailing_list.address
        for member in mailing_list.members if token else ():
            if hmac.compare_digest(token.encode(), self._token("bounces", own, member).encode()):
                return member
        return None

    def confirmation(self, mailing_list: Address, member: Address, what: str) -> str:
        """What a member sends back to mean ``what``."""
        return self._token(f"{what} {self._today()}", mailing_list, member)

    def is_confirmed(self, mailing_list: Address, member: Address, what: str, token: str) -> bool:
        """Whether ``token`` was given out for that, in the last days."""
        return any(
            hmac.compare_digest(
                token.lower().encode(),
                self._token(f"{what} {self._today() - age}", mailing_list, member).encode(),
            )
            for age in range(CONFIRM_DAYS + 1)
        )

    def _token(self, purpose: str, mailing_list: Address, member: Address) -> str:
        # The member's letters may lose their case on the way there and back.
        parts = [purpose]
        for one in (mailing_list, member):
            parts += [local_key(one.local), domain_key(one.domain)]
        octets = hmac.digest(self._key(), "\0".join(parts).encode("utf-8", "surrogatepass"), "sha256")
        return b32encode(octets)[:12].decode().lower()

    def _today(self) -> int:
        return int(self._now() // _DAY)
