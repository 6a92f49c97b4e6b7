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
        if opinion is None:
            continue
        if inspect.isawaitable(opinion):
            return _after(opinion, chain[n + 1 :], facts, rule)
        _note(facts, rule)
        return opinion
    return None


async def _after(
    opinion: Awaitable[Opinion], rest: Sequence[Rule[Facts]], facts: Facts, rule: Rule[Facts]
) -> Opinion:
    decided = await opinion
    if decided is not None:
        _note(facts, rule)
        return decided
    later = decide(rest, facts)
    return await later if inspect.isawaitable(later) else later


def _note(facts: object, rule: object) -> None:
    """Let the trace say which rule has decided."""
    transaction = getattr(facts, "transaction", None)
    if transaction is not None:
        transaction.decided_by = rule_name(rule)


def rule_name(rule: object) -> str:
    """How people see a rule: its ``name``, or what it is called in the code."""
    name = getattr(rule, "name", None) or getattr(rule, "__qualname__", None) or type(rule).__name__
    return str(name).split(".<locals>")[0].rpartition(".")[2]


def may_receive(facts: RecipientFacts) -> Opinion | Awaitable[Opinion]:
    """The decision on one RCPT: relay permission before everything else."""
    return decide(_BEFORE_OTHERS, facts)


_BEFORE_OTHERS: tuple[Rule[RecipientFacts], ...] = (*RELAY_PERMISSION, *RECIPIENT)


def asked(*others: Rule[RecipientFacts]) -> tuple[Rule[RecipientFacts], ...]:
    """All rules of a RCPT in the order in which they are asked."""
    return (*_BEFORE_OTHERS, *others)


def receiving(*others: Rule[RecipientFacts]) -> Rule[RecipientFacts]:
    """The same decision, with ``others`` asked after our own, in this order."""
    chain = asked(*others)
    return (lambda facts: decide(chain, facts)) if others else may_receive
