"""Strangers whose domain has a null MX are refused; what DNS does not tell counts for nothing."""

from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mailserver.interfaces import LookupDelayed
from mailserver.receive.sender_domains import REMEMBERED_SECONDS, SenderDomains
from mailserver.values.account import Account, NoSuchUser
from mailserver.values.address import NULL_SENDER, Address
from mailserver.values.session import RecipientFacts, SessionFacts, TransactionFacts

BOB = Address("bob", "example.test")
RECORDS: dict[str, Sequence[str]] = {
    "none.test": ["0 ."],
    "xn--d1acpjx3f.test": ["0 ."],
    "good.test": ["10 mx.good.test."],
    "odd.test": ["0 .", "10 mx.odd.test."],
    "plain.test": [],
}


class Dns:
    def __init__(self) -> None:
        self.asked: list[str] = []

    async def texts(self, name: str, record: str) -> Sequence[str]:
        assert record == "MX"
        self.asked.append(name)
        if name == "slow.test":
            return await Deferred()
        if name not in RECORDS:
            raise LookupDelayed("SERVFAIL")
        return RECORDS[name]


def opinion(rule: SenderDomains, path: Address, clock: Clock | None = None, **session: Any) -> str | None:
    facts = SessionFacts(**{"role": "smtp", "client_host": "192.0.2.1", "client_port": 1, **session})
    asked = rule(RecipientFacts(TransactionFacts(facts, path), BOB, NoSuchUser(BOB)))
    if asked is not None and not hasattr(asked, "code"):
        found: list[Any] = []
        Deferred.fromCoroutine(asked).addCallback(found.append)  # type: ignore[arg-type]
        if clock is not None:
            assert not found
            clock.advance(5)
        (asked,) = found
    return None if asked is None else f"{asked.code} {asked.enhanced}"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("none.test", "550 5.7.27"),
        ("NONE.test", "550 5.7.27"),
        ("яндекс.test", "550 5.7.27"),
        ("good.test", None),
        ("odd.test", None),
        ("plain.test", None),
        ("broken.test", None),
        ("[192.0.2.1]", None),
    ],
)
def test_only_a_null_mx_is_refused(domain: str, expected: str | None) -> None:
    assert opinion(SenderDomains(Dns(), Clock(), 5.0), Address("a", domain)) == expected


def test_who_is_no_stranger_is_not_asked_about() -> None:
    dns = Dns()
    rule = SenderDomains(dns, Clock(), 5.0)
    sender = Address("a", "none.test")
    assert opinion(rule, sender, trusted=True) is None
    assert opinion(rule, sender, role="lmtp") is None
    assert opinion(rule, sender, account=Account(BOB)) is None
    assert opinion(rule, NULL_SENDER) is None
    assert dns.asked == []


def test_an_answer_is_remembered_and_a_late_one_not_waited_for() -> None:
    clock, dns = Clock(), Dns()
    rule = SenderDomains(dns, clock, 5.0)
    for _ in range(3):
        assert opinion(rule, Address("a", "none.test")) == "550 5.7.27"
    assert dns.asked == ["none.test"]
    clock.advance(REMEMBERED_SECONDS)
    opinion(rule, Address("a", "none.test"))
    assert dns.asked == ["none.test"] * 2
    assert opinion(rule, Address("a", "slow.test"), clock) is None
    assert not clock.getDelayedCalls()
