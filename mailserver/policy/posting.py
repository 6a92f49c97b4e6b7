"""Who may write to a mailing list."""

from __future__ import annotations

from collections.abc import Callable

from mailserver.values.account import Alias, LocalUser, MailingList, Resolution
from mailserver.values.address import NULL_SENDER, Address
from mailserver.values.reply import Reply, reply
from mailserver.values.session import RecipientFacts
from mailserver.values.text import printable

_MOST_ALIASES = 1000


def posting(resolve: Callable[[Address], Resolution]) -> Callable[[RecipientFacts], Reply | None]:
    """A rule about lists, also those that an alias leads to. Everybody else costs it one look."""

    def rule(facts: RecipientFacts) -> Reply | None:
        if isinstance(facts.resolution, LocalUser):
            return None
        for mailing_list in _lists_behind(resolve, facts.resolution):
            if objection := _objection(resolve, mailing_list, facts.transaction.reverse_path):
                return objection
        return None

    return rule


def _objection(
    resolve: Callable[[Address], Resolution], mailing_list: MailingList, sender: Address
) -> Reply | None:
    name = printable(str(mailing_list.address))
    if sender == NULL_SENDER:
        return reply(550, "5.7.1", f"<{name}>: reports do not go to a mailing list")
    if mailing_list.posters == "anybody":
        return None
    answer = resolve(sender)
    names = [sender, *([answer.account.address] if isinstance(answer, LocalUser) else [])]
    if any(mailing_list.has_owner(one) for one in names):
        return None
    if mailing_list.posters == "members" and any(mailing_list.has_member(one) for one in names):
        return None
    return reply(550, "5.7.1", f"<{name}>: only {mailing_list.posters} may write to this list")


def _lists_behind(resolve: Callable[[Address], Resolution], answer: Resolution) -> list[MailingList]:
    """The first lists that mail meets, not those that are members of them."""
    found: list[MailingList] = []
    waiting, seen = [answer], set[tuple[str, str]]()
    while waiting and len(seen) < _MOST_ALIASES:
        current = waiting.pop()
        if isinstance(current, MailingList):
            found.append(current)
        elif isinstance(current, Alias):
            fresh = [target for target in current.targets if target.key not in seen]
            seen.update(target.key for target in fresh)
            waiting += [resolve(target) for target in fresh]
    return found
