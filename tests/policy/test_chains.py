"""The chains: relay permission first, the first opinion wins, waiting rules are awaited."""

import asyncio
from collections.abc import Awaitable

import pytest

from mailserver.policy.chains import decide, may_receive
from mailserver.values.account import Account, Alias, Elsewhere, LocalUser, NoSuchUser, Resolution
from mailserver.values.address import Address
from mailserver.values.reply import Reply, reply
from mailserver.values.session import RecipientFacts, SessionFacts, TransactionFacts

ADA = Address("ada", "example.test")
NO = reply(550, "5.7.1", "No")


def facts(resolution: Resolution, account: Account | None = None, trusted: bool = False) -> RecipientFacts:
    session = SessionFacts("smtp", "192.0.2.1", 25, account=account, trusted=trusted)
    return RecipientFacts(TransactionFacts(session), ADA, resolution)


def code(opinion: Reply | Awaitable[Reply | None] | None) -> int | None:
    assert opinion is None or isinstance(opinion, Reply)
    return opinion.code if opinion else None


@pytest.mark.parametrize(
    ("resolution", "account", "trusted", "expected"),
    [
        (LocalUser(Account(ADA)), None, False, None),
        (Alias(ADA, (ADA,)), None, False, None),
        (NoSuchUser(ADA), None, False, 550),
        (NoSuchUser(ADA), Account(ADA), True, 550),
        (Elsewhere(ADA), None, False, 550),
        (Elsewhere(ADA), Account(ADA), False, None),
        (Elsewhere(ADA), None, True, None),
    ],
)
def test_who_may_send_where(
    resolution: Resolution, account: Account | None, trusted: bool, expected: int | None
) -> None:
    assert code(may_receive(facts(resolution, account, trusted))) == expected


def test_the_first_opinion_decides_and_later_rules_are_not_asked() -> None:
    asked = []

    def silent(_: object) -> None:
        asked.append("silent")

    def never(_: object) -> Reply:
        raise AssertionError("asked after the decision")

    assert decide([silent, lambda _: NO, never], object()) is NO
    assert asked == ["silent"]


def test_a_rule_that_waits_is_awaited_and_the_rest_asked_after_it() -> None:
    async def later(_: object) -> Reply | None:
        await asyncio.sleep(0)
        return None

    async def no(_: object) -> Reply | None:
        return NO

    async def run() -> Reply | None:
        opinion = decide([lambda _: None, later, no, lambda _: None], object())
        assert not isinstance(opinion, Reply)
        assert opinion is not None
        return await opinion

    assert asyncio.run(run()) is NO
