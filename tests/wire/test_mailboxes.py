"""Which addresses anybody could see in From (RFC 5322 §3.4)."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailserver.values.address import Address
from mailserver.wire.mailboxes import UnreadableField, addresses_in


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (" ada@a.test", ["ada@a.test"]),
        (" Ada <ada@a.test>\r\n", ["ada@a.test"]),
        (" Ada Q. Public (at home) <ada@a.test>,\r\n\tbob@b.test", ["ada@a.test", "bob@b.test"]),
        (' "ceo@bank.test" <ada@a.test>', ["ada@a.test"]),
        (r' "a \" ceo@bank.test" <ada@a.test>', ["ada@a.test"]),
        (r' "a \\" ceo@bank.test <ada@a.test>', ["ada@a.test", "ceo@bank.test"]),
        (" ceo@bank.test <ada@a.test>", ["ada@a.test", "ceo@bank.test"]),
        (" (ceo@bank.test (x) \\) <b@b.test>) ada@a.test", ["ada@a.test"]),
        (" team: ada@a.test, Bob <bob@b.test>;", ["ada@a.test", "bob@b.test"]),
        (" ceo@bank.test: ada@a.test;", ["ceo@bank.test", "ada@a.test"]),
        (" <ada@a.test> <bob@b.test>", ["ada@a.test", "bob@b.test"]),
        (' "ada lovelace"@a.test', ["ada lovelace@a.test"]),
        (' <"a,b"@a.test>', ["a,b@a.test"]),
        (" root", ["root@"]),
        (" Олена <олена@пошта.укр>", ["олена@пошта.укр"]),
        ("", []),
        (" ,,", []),
    ],
)
def test_addresses(body: str, found: list[str]) -> None:
    assert [f"{a.local}@{a.domain}" for a in addresses_in(body.encode())] == found


@pytest.mark.parametrize(
    "body",
    [' "ada <ada@a.test>', " (ada@a.test", " <ada@a.test", " ada lovelace@a.test", " <>", " @a.test", " a@"],
)
def test_what_cannot_be_read(body: str) -> None:
    with pytest.raises(UnreadableField):
        addresses_in(body.encode())


@given(st.binary(max_size=200))
def test_any_octets(body: bytes) -> None:
    try:
        assert all(isinstance(found, Address) for found in addresses_in(body))
    except UnreadableField:
        pass


def test_takes_linear_time() -> None:
    for hostile in (
        b"(" * 200_000,
        b'"\\' * 100_000,
        b"a@b," * 50_000,
        b"<a@b>" * 40_000,
        b"a@b " * 50_000 + b"<",
    ):
        begin = time.process_time()
        try:
            addresses_in(hostile)
        except UnreadableField:
            pass
        assert time.process_time() - begin < 5  # quadratic would be minutes
