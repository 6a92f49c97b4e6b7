"""VRFY and EXPN of large lists, of directories that cannot be read, and of what is no name."""

from mailserver.receive.address_book import MOST_MEMBERS, AddressBook
from mailserver.values.account import Account, Alias, LocalUser, MailingList, NoSuchUser, Resolution
from mailserver.values.address import Address
from mailserver.wire.smtp_events import Expand, Verify

LIST = Address("list", "example.test")


def book(answer: Resolution) -> AddressBook:
    def resolve(address: Address) -> Resolution:
        return answer if address.local == "list" else NoSuchUser(address)

    return AddressBook(resolve, ["example.test"])


def members(count: int) -> tuple[Address, ...]:
    return tuple(Address(f"u{n}", "example.test") for n in range(count))


def test_the_members_of_an_alias_and_of_a_list_are_told() -> None:
    for answer in (Alias(LIST, members(3)), MailingList(LIST, members(3))):
        told = book(answer).expand(Expand("list"))
        assert told.code == 250
        assert told.lines == tuple(f"<u{n}@example.test>" for n in range(3))


def test_a_list_is_a_mailbox_for_vrfy() -> None:
    told = book(MailingList(LIST, ())).verify(Verify("list", permitted=True))
    assert (told.code, told.lines) == (250, ("<list@example.test>",))


def test_an_answer_has_an_end() -> None:
    assert book(Alias(LIST, members(MOST_MEMBERS))).expand(Expand("list")).code == 250
    assert book(Alias(LIST, members(MOST_MEMBERS + 1))).expand(Expand("list")).code == 550
    assert book(Alias(LIST, ())).expand(Expand("list")).code == 550


def test_the_account_s_own_address_is_told_and_no_detail_of_the_asker_s() -> None:
    told = book(LocalUser(Account(Address("ada", "example.test")))).verify(Verify("list", permitted=True))
    assert told.lines == ("<ada@example.test>",)


def test_what_is_no_name_is_refused() -> None:
    for name in ("a b", "@", "a@b@c", "<>", "a,b", "\udcff", "x" * 65, "<a@b>,<c@d>"):
        assert book(NoSuchUser(LIST)).verify(Verify(name, permitted=True)).code == 501, name


def test_a_mailbox_outside_ascii_is_told_to_those_who_read_it() -> None:
    """RFC 6531 §3.7.4.2; by an ASCII name only where the domain has none."""
    answers = book(LocalUser(Account(Address("list", "bücher.test"))))
    refused = answers.verify(Verify("list", permitted=True))
    assert (refused.code, refused.enhanced) == (252, "2.6.8")
    told = answers.verify(Verify("list", permitted=True, smtputf8=True))
    assert told.lines == ("<list@bücher.test>",)
