"""From an address to its final recipients, each once: aliases expand when a message is accepted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from mailserver.values.account import Alias, LocalUser, Resolution
from mailserver.values.address import Address
from mailserver.values.envelope import EXPANDED, Recipient

MOST_RECIPIENTS = 100_000
"""What one message may expand to; a table of aliases that goes beyond it is a mistake."""


_MEMBERS = 20


def language_of(resolve: Callable[[Address], Resolution], address: Address) -> str:
    """What the reader behind an address has chosen to read, ``""`` for a stranger or who chose nothing; of
    an alias, its first member who is a user here."""
    answer = resolve(address)
    if isinstance(answer, Alias):
        found = (resolve(target) for target in answer.targets)
        answer = next((one for one in found if isinstance(one, LocalUser)), answer)
    return answer.account.language if isinstance(answer, LocalUser) else ""


def accounts_behind(resolve: Callable[[Address], Resolution], address: Address) -> list[Address]:
    """The users here who may have written as ``address``: its own, or an alias's members, the first few."""
    answer = resolve(address)
    answers = [answer]
    if isinstance(answer, Alias):
        answers = [resolve(target) for target in answer.targets[:_MEMBERS]]
    return [one.account.address for one in answers if isinstance(one, LocalUser)]


def final_addresses(
    resolve: Callable[[Address], Resolution], address: Address
) -> dict[tuple[str, str], Address]:
    """The addresses that ``address`` ends at, in order, each under the key of its mailbox: a user's
    spellings and details are one mailbox. A loop adds nothing.

    Raises:
        OverflowError: there are more than ``MOST_RECIPIENTS``.
    """
    final: dict[tuple[str, str], Address] = {}
    seen: set[tuple[str, str]] = set()
    stack = [address]
    while stack:
        current = stack.pop()
        if current.key in seen:
            continue
        seen.add(current.key)
        if len(seen) > MOST_RECIPIENTS:
            raise OverflowError(f"{address} expands to more than {MOST_RECIPIENTS} addresses")
        answer = resolve(current)
        if isinstance(answer, Alias):
            stack.extend(reversed(answer.targets))
        else:
            mailbox = answer.account.address if isinstance(answer, LocalUser) else current
            final.setdefault(mailbox.key, current)
    return final


def final_recipients(
    resolve: Callable[[Address], Resolution], asked: Iterable[tuple[Address, str, frozenset[str]]]
) -> tuple[Recipient, ...]:
    """One ``Recipient`` for each mailbox here and each address elsewhere, however many ways lead to it.

    ``asked`` holds what RCPT said: forward-path, ORCPT, NOTIFY.  When several stand behind an
    address and its sender wants to hear of success, the expansion is that success: the address is
    one more recipient, ``is_expanded``, and its members report failures only (RFC 3461 §5.2.7.3).
    """
    found: dict[tuple[str, str], Recipient] = {}
    expanded: list[Recipient] = []
    for original, orcpt, notify in asked:
        addresses = final_addresses(resolve, original)
        if len(addresses) > 1 and "SUCCESS" in notify:
            expanded.append(Recipient(0, original, original, orcpt, frozenset({EXPANDED, "SUCCESS"})))
            notify = notify - {"SUCCESS"} or frozenset({"NEVER"})
        for key, address in addresses.items():
            if key not in found:
                found[key] = Recipient(len(found), address, original, orcpt, notify)
    if not expanded:
        return tuple(found.values())
    return (*found.values(), *(replace(one, number=len(found) + n) for n, one in enumerate(expanded)))
