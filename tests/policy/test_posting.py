"""Who may write to a mailing list, also through an alias."""

from __future__ import annotations

import pytest

from mailserver.policy.posting import posting
from mailserver.values.account import Account, Alias, Elsewhere, LocalUser, MailingList, Resolution
from mailserver.values.address import NULL_SENDER, Address, address_from
from mailserver.values.session import RecipientFacts, SessionFacts, TransactionFacts

ADA, BOB = address_from("ada@a.test"), address_from("Bob@b.test")


def resolve(address: Address) -> Resolution:
    name = str(address).lower()
    if address.local in ("members", "owners", "anybody"):
        return MailingList(address, (ADA, BOB), (address_from("olga@o.test"),), address.local)
    if name == "all@a.test":
        return Alias(address, (address, address_from("members@a.test"), ADA))
    if name.partition("+")[0].partition("@")[0] == "ada":
        return LocalUser(Account(ADA))
    return Elsewhere(address)


def code(to: str, sender: str) -> int:
    path = address_from(sender) if sender else NULL_SENDER
    transaction = TransactionFacts(SessionFacts("smtp", "192.0.2.1", 4321), path)
    forward = address_from(to)
    answer = posting(resolve)(RecipientFacts(transaction, forward, resolve(forward)))
    return 250 if answer is None else answer.code


@pytest.mark.parametrize(
    ("to", "sender", "expected"),
    [
        ("members@a.test", "ada@a.test", 250),
        ("members@a.test", "ada+lists@a.test", 250),
        ("members@a.test", "BOB@B.test", 250),
        ("members@a.test", "olga@o.test", 250),
        ("members@a.test", "eve@b.test", 550),
        ("members@a.test", "", 550),
        ("owners@a.test", "olga@o.test", 250),
        ("owners@a.test", "ada@a.test", 550),
        ("anybody@a.test", "eve@b.test", 250),
        ("anybody@a.test", "", 550),
        ("all@a.test", "eve@b.test", 550),
        ("all@a.test", "ada@a.test", 250),
        ("ada@a.test", "eve@b.test", 250),
        ("x@elsewhere.test", "eve@b.test", 250),
    ],
)
def test_who_may_write(to: str, sender: str, expected: int) -> None:
    assert code(to, sender) == expected
