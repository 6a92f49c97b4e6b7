"""Whom an account may write as: itself, its aliases, and what the administrator allows it."""

from __future__ import annotations

from collections.abc import Callable

from mailserver.values.account import Account, Alias, LocalUser, Resolution
from mailserver.values.address import NULL_SENDER, Address, domain_key
from mailserver.values.expansion import final_addresses
from mailserver.values.reply import Reply, reply
from mailserver.values.text import printable


class SenderRights:
    """Answers from the directory; ``resolve`` is ``IDirectory.resolve``."""

    def __init__(self, resolve: Callable[[Address], Resolution]) -> None:
        self._resolve = resolve

    def may_use(self, account: Account, address: Address) -> bool:
        """Whether ``account`` may write as ``address``: its own (with any ``+detail``), an alias that
        leads to it, or one that ``may_send_as`` names."""
        if account.address == address:
            return True
        answer = self._resolve(address)
        if isinstance(answer, LocalUser):
            owned = answer.account.address.key == account.address.key
        else:
            owned = isinstance(answer, Alias) and account.address.key in final_addresses(
                self._resolve, address
            )
        return owned or any(_covers(pattern, address) for pattern in account.may_send_as)

    def objection(self, account: Account, reverse_path: Address) -> Reply | None:
        """The answer to MAIL (RFC 6409 §6.1); the null sender is everybody's, for receipts (RFC 8098)."""
        if reverse_path == NULL_SENDER or self.may_use(account, reverse_path):
            return None
        return reply(
            550,
            "5.7.1",
            f"<{printable(str(reverse_path), 100)}> is not an address of <{account.address}>, "
            "who is logged in",
        )


def _covers(pattern: str, address: Address) -> bool:
    local, at, domain = pattern.rpartition("@")
    if not at:
        return pattern == "*"
    return domain_key(domain) == domain_key(address.domain) and local in ("", address.local)
