"""From an address to its final recipients, each once: aliases expand when a message is accepted."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from mailserver.values.account import Alias, Resolution
from mailserver.values.address import Address
from mailserver.values.envelope import Recipient

MOST_RECIPIENTS = 100_000
"""What one message may expand to; a table of aliases that goes beyond it is a mistake."""


def final_addresses(resolve: Callable[[Address], Resolution], address: Address) -> list[Address]:
    """The addresses that ``address`` ends at, in order, without repetition; a loop adds nothing.

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
            final[current.key] = current
    return list(final.values())


def final_recipients(
    resolve: Callable[[Address], Resolution], asked: Iterable[tuple[Address, str, frozenset[str]]]
) -> tuple[Recipient, ...]:
    """One ``Recipient`` for each final address, however many ways lead to it.

    ``asked`` holds what RCPT said: forward-path, ORCPT, NOTIFY.
    """
    found: dict[tuple[str, str], Recipient] = {}
    for original, orcpt, notify in asked:
        for address in final_addresses(resolve, original):
            if address.key not in found:
                found[address.key] = Recipient(len(found), address, original, orcpt, notify)
    return tuple(found.values())
