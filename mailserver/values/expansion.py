"""From an address to its final recipients, each once: aliases expand when a message is accepted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from mailserver.values.account import Alias, LocalUser, MailingList, Resolution
from mailserver.values.address import Address
from mailserver.values.envelope import EXPANDED, LISTED, Recipient

MOST_RECIPIENTS = 100_000
"""What one message may expand to; a table of aliases that goes beyond it is a mistake."""


_MEMBERS = 20
_LISTED = frozenset({LISTED})


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
    return {key: one.address for key, one in _ends(resolve, address).items()}


@dataclass(frozen=True, slots=True)
class _End:
    """``through``: the mailing list that leads there, the last one on the way."""

    address: Address
    through: Address | None


def _ends(resolve: Callable[[Address], Resolution], address: Address) -> dict[tuple[str, str], _End]:
    answer = resolve(address)
    if not isinstance(answer, Alias | MailingList):  # nearly all of them
        return {_mailbox_key(answer, address): _End(address, None)}
    final: dict[tuple[str, str], _End] = {}
    seen: set[tuple[str, str]] = set()
    stack: list[tuple[Address, Address | None]] = [(address, None)]
    while stack:
        current, through = stack.pop()
        if current.key in seen:
            continue
        seen.add(current.key)
        if len(seen) > MOST_RECIPIENTS:
            raise OverflowError(f"{address} expands to more than {MOST_RECIPIENTS} addresses")
        answer = resolve(current)
        if isinstance(answer, Alias):
            stack.extend((target, through) for target in reversed(answer.targets))
        elif isinstance(answer, MailingList):
            stack.extend((member, answer.address) for member in reversed(answer.members))
        else:
            final.setdefault(_mailbox_key(answer, current), _End(current, through))
    return final


def _mailbox_key(answer: Resolution, address: Address) -> tuple[str, str]:
    return answer.account.address.key if isinstance(answer, LocalUser) else address.key


def final_recipients(
    resolve: Callable[[Address], Resolution], asked: Iterable[tuple[Address, str, frozenset[str]]]
) -> tuple[Recipient, ...]:
    """One ``Recipient`` for each mailbox here and each address elsewhere, however many ways lead to it.

    ``asked`` holds what RCPT said: forward-path, ORCPT, NOTIFY.  When several stand behind an
    address and its sender wants to hear of success, the expansion is that success: the address is
    one more recipient, ``is_expanded``, and its members report failures only (RFC 3461 §5.2.7.3).
    Members of a mailing list are ``is_listed``: what becomes of them is the list's business.
    """
    found: dict[tuple[str, str], Recipient] = {}
    expanded: list[Recipient] = []
    for original, orcpt, notify in asked:
        ends = _ends(resolve, original)
        if len(ends) > 1 and "SUCCESS" in notify:
            expanded.append(Recipient(0, original, original, orcpt, frozenset({EXPANDED, "SUCCESS"})))
            notify = notify - {"SUCCESS"} or frozenset({"NEVER"})
        for key, end in ends.items():
            if key in found:
                continue
            if end.through is None:
                found[key] = Recipient(len(found), end.address, original, orcpt, notify)
            else:
                found[key] = Recipient(len(found), end.address, end.through, "", _LISTED)
    if not expanded:
        return tuple(found.values())
    return (*found.values(), *(replace(one, number=len(found) + n) for n, one in enumerate(expanded)))
