"""The values: addresses, queue ids, replies, trace fields, expansion, printable text."""

import email.utils
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailserver.values.account import Account, Alias, Elsewhere, LocalUser, Resolution
from mailserver.values.address import NULL_SENDER, Address, address_from, domain_key
from mailserver.values.dates import header_date
from mailserver.values.envelope import entry_number, queue_id
from mailserver.values.expansion import (
    accounts_behind,
    final_addresses,
    final_recipients,
    language_of,
)
from mailserver.values.reply import reply
from mailserver.values.session import SessionFacts, TLSFacts
from mailserver.values.text import printable
from mailserver.values.trace import received, transmission_type

ADA = Address("ada", "example.test")


@pytest.mark.parametrize(
    ("address", "written"),
    [
        (ADA, "ada@example.test"),
        (NULL_SENDER, ""),
        (Address("Postmaster", ""), "Postmaster"),
        (Address("a b", "x.test"), '"a b"@x.test'),
        (Address('q"\\', "x.test"), '"q\\"\\\\"@x.test'),
        (Address("", "x.test"), '""@x.test'),
        (Address("a..b", "x.test"), '"a..b"@x.test'),
        (Address("çiğdem", "örnek.test"), "çiğdem@örnek.test"),
    ],
)
def test_addresses_are_quoted_only_where_they_must_be(address: Address, written: str) -> None:
    assert str(address) == written


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Example.TEST", "example.test"),
        ("example.test.", "example.test"),
        ("пошта.укр", "xn--80a1acn3a.xn--j1amh"),
        ("ÖRNEK.test", "xn--rnek-4qa.test"),
        ("پست.test", "xn--pgbr8t.test"),
    ],
)
def test_spellings_of_one_domain_are_equal(one: str, other: str) -> None:
    assert domain_key(one) == domain_key(other)


@pytest.mark.parametrize("text", ["", "ada", "@x.test", "ada@", "a b@x.test", "ada@x test"])
def test_an_administrators_address_needs_both_sides(text: str) -> None:
    with pytest.raises(ValueError, match="expected local-part@domain"):
        address_from(text)


@given(st.integers(0, 2**63 - 1))
def test_queue_ids_go_both_ways(number: int) -> None:
    assert entry_number(queue_id(number)) == number


@pytest.mark.parametrize("text", ["", "A", "e", "0b", "-1"])
def test_what_is_no_queue_id_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"queue id|substring"):
        entry_number(text)


def test_every_line_of_a_reply_has_its_enhanced_status() -> None:
    assert reply(550, "5.1.1", "one", "two").encode() == b"550-5.1.1 one\r\n550 5.1.1 two\r\n"
    assert reply(354, "", "go").encode() == b"354 go\r\n"


@pytest.mark.parametrize(
    ("extended", "tls", "login", "utf8", "word"),
    [
        (False, False, False, False, "SMTP"),
        (True, False, False, False, "ESMTP"),
        (True, True, False, False, "ESMTPS"),
        (True, True, True, False, "ESMTPSA"),
        (True, False, True, False, "ESMTPA"),
        (True, True, True, True, "UTF8SMTPSA"),
    ],
)
def test_transmission_types(extended: bool, tls: bool, login: bool, utf8: bool, word: str) -> None:
    session = SessionFacts(
        "smtp",
        "192.0.2.1",
        1,
        extended=extended,
        tls=TLSFacts("TLSv1.3", "X") if tls else None,
        account=Account(ADA) if login else None,
    )
    assert transmission_type(session, utf8) == word


def test_received_names_client_and_recipient() -> None:
    session = SessionFacts("smtp", "2001:db8::1", 1, hello="client.test", extended=True)
    field = received(session, "mx.test", "b2", 0.0, recipient=ADA).decode()
    assert field.startswith(
        "Received: from client.test ([IPv6:2001:db8::1])\r\n\tby mx.test with ESMTP id b2\r\n"
    )
    assert "\r\n\tfor <ada@example.test>;\r\n\t" in field
    assert " for " not in received(session, "mx.test", "b2", 0.0).decode().replace("\t", " ")


def test_header_date_is_what_the_standard_library_reads() -> None:
    now = int(time.time())
    assert email.utils.parsedate_to_datetime(header_date(now)).timestamp() == now


def directory(table: dict[str, list[str]]) -> object:
    def resolve(address: Address) -> Resolution:
        targets = table.get(str(address))
        if targets is None:
            return LocalUser(Account(address))
        return Alias(address, tuple(address_from(t) for t in targets))

    return resolve


def test_expansion_follows_aliases_and_ends_loops() -> None:
    resolve = directory(
        {"a@x.test": ["b@x.test", "c@x.test"], "b@x.test": ["a@x.test", "d@x.test", "c@x.test"]}
    )
    assert [str(a) for a in final_addresses(resolve, address_from("a@x.test")).values()] == [
        "d@x.test",
        "c@x.test",
    ]  # type: ignore[arg-type]


def test_each_final_recipient_is_there_once() -> None:
    resolve = directory({"all@x.test": ["ada@x.test", "bob@X.test"]})
    asked = [(address_from(t), "", frozenset[str]()) for t in ("all@x.test", "bob@x.test", "ada@x.test")]
    found = final_recipients(resolve, asked)  # type: ignore[arg-type]
    assert [(r.number, str(r.address), str(r.original)) for r in found] == [
        (0, "ada@x.test", "all@x.test"),
        (1, "bob@X.test", "all@x.test"),
    ]


def test_spellings_of_one_mailbox_are_one_recipient() -> None:
    account = Account(address_from("ada@x.test"))
    asked = [
        (address_from(t), "", frozenset[str]()) for t in ("ada@x.test", "ADA@x.test", "ada+lists@X.test")
    ]
    found = final_recipients(lambda _: LocalUser(account), asked)
    assert [str(r.address) for r in found] == ["ada@x.test"]


@given(st.text())
def test_printable_text_is_one_line(text: str) -> None:
    shown = printable(text, 50)
    assert shown.isprintable()
    assert len(shown.splitlines()) <= 1


def test_success_at_a_list_is_its_expansion() -> None:
    def resolve(address: Address) -> Resolution:
        members = {"all": ("ada", "bob"), "one": ("cem",)}.get(address.local)
        if members is None:
            return Elsewhere(address)
        return Alias(address, tuple(Address(m, "b.test") for m in members))

    def notify(*asked: tuple[str, str]) -> list[tuple[int, str, list[str]]]:
        found = final_recipients(
            resolve, [(Address(local, "b.test"), "", frozenset(words.split())) for local, words in asked]
        )
        return [(r.number, r.address.local, sorted(r.notify)) for r in found]

    assert notify(("all", "SUCCESS FAILURE"), ("zoe", "SUCCESS")) == [
        (0, "ada", ["FAILURE"]),
        (1, "bob", ["FAILURE"]),
        (2, "zoe", ["SUCCESS"]),
        (3, "all", ["EXPANDED", "SUCCESS"]),
    ]
    # Only success was of interest: a member's failure is nobody's news (RFC 3461 §5.2.7.3).
    assert [words for _, _, words in notify(("all", "SUCCESS"))][:2] == [["NEVER"], ["NEVER"]]
    # One behind an alias is the alias itself, and everything goes along.
    assert notify(("one", "SUCCESS")) == [(0, "cem", ["SUCCESS"])]
    assert notify(("all", "FAILURE"), ("all", "")) == [(0, "ada", ["FAILURE"]), (1, "bob", ["FAILURE"])]


def test_who_may_be_behind_an_address_and_what_they_read() -> None:
    ada = Account(address_from("ada@a.test"), language="tr")
    bob = Account(address_from("bob@a.test"), language="uk")
    answers: dict[str, Resolution] = {
        "ada@a.test": LocalUser(ada),
        "bob@a.test": LocalUser(bob),
        "sales@a.test": Alias(
            address_from("sales@a.test"), tuple(map(address_from, ("x@b.test", "bob@a.test", "ada@a.test")))
        ),
    }

    def resolve(address: Address) -> Resolution:
        return answers.get(str(address)) or Elsewhere(address)

    assert language_of(resolve, address_from("ada@a.test")) == "tr"
    assert language_of(resolve, address_from("sales@a.test")) == "uk"
    assert language_of(resolve, address_from("x@b.test")) == ""
    assert accounts_behind(resolve, address_from("sales@a.test")) == [bob.address, ada.address]
    assert accounts_behind(resolve, address_from("ada@a.test")) == [ada.address]
    assert accounts_behind(resolve, address_from("x@b.test")) == []
