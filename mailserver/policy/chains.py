"""The order of the rules, on one screen: the first with an opinion decides."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from mailserver.policy import rules
from mailserver.values.reply import Reply
from mailserver.values.session import RecipientFacts

Facts = TypeVar("Facts")
Opinion = Reply | None
Rule = Callable[[Facts], Opinion | Awaitable[Opinion]]

RELAY_PERMISSION: tuple[Rule[RecipientFacts], ...] = (rules.relay_only_for_our_own,)
"""Who may send elsewhere. A chain of its own, asked first: no configuration can reorder it."""

RECIPIENT: tuple[Rule[RecipientFacts], ...] = (rules.recipient_must_exist,)
"""What else is asked at RCPT."""


def decide(chain: Sequence[Rule[Facts]], facts: Facts) -> Opinion | Awaitable[Opinion]:
    """The first opinion, or ``None`` when nobody objects.

    An awaitable is returned only when a rule needs to wait, so that plain rules cost plain calls.
    """
    for n, rule in enumerate(chain):
        opinion = rule(facts)
        if inspect.isawaitable(opinion):
            return _after(opinion, chain[n + 1 :], facts)
        if opinion is not None:
            return opinion
    return None


async def _after(opinion: Awaitable[Opinion], rest: Sequence[Rule[Facts]], facts: Facts) -> Opinion:
    decided = await opinion
    if decided is not None:
        return decided
    later = decide(rest, facts)
    return await later if inspect.isawaitable(later) else later


def may_receive(facts: RecipientFacts) -> Opinion | Awaitable[Opinion]:
    """The decision on one RCPT: relay permission before everything else."""
    return decide(_BEFORE_OTHERS, facts)


_BEFORE_OTHERS: tuple[Rule[RecipientFacts], ...] = (*RELAY_PERMISSION, *RECIPIENT)


def receiving(*others: Rule[RecipientFacts]) -> Rule[RecipientFacts]:
    """The same decision, with ``others`` asked after our own, in this order."""
    chain = (*_BEFORE_OTHERS, *others)
    return (lambda facts: decide(chain, facts)) if others else may_receive
