"""What lists and forwards look like when they leave, and who hears of failures."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from mailserver.deliver.forwarded import ForwardingAgent
from mailserver.deliver.listed import ListedAgent
from mailserver.interfaces import IDeliveryAgent
from mailserver.values.account import Elsewhere, MailingList, NoSuchUser, Resolution
from mailserver.values.address import NULL_SENDER, Address, address_from
from mailserver.values.content import Content, MemoryContent
from mailserver.values.envelope import LISTED, Entry, Envelope, Recipient
from mailserver.values.expansion import final_recipients
from mailserver.values.outcome import Delayed, Failed, Outcome, Relayed

NEWS = address_from("news@a.test")
MESSAGE = (
    b"Received: by x\r\nList-Id: <other.b.test>\r\nlist-unsubscribe: <mailto:x@b.test>,\r\n\t<https://b.test>\r\n"
    b"Subject: x\r\n\r\nList-Id: not a field\r\n"
)


@implementer(IDeliveryAgent)
class Inner:
    """Remembers; ``fails`` never take anything."""

    def __init__(self) -> None:
        self.asked: list[tuple[Entry, Sequence[Recipient]]] = []
        self.fails: set[str] = set()

    def attempt(self, entry: Entry, recipients: Sequence[Recipient]) -> Deferred[Sequence[Outcome]]:
        self.asked.append((entry, recipients))
        return succeed([self.outcome(one) for one in recipients])

    def outcome(self, one: Recipient) -> Outcome:
        kind = Failed if str(one.address) in self.fails else Relayed
        return kind(recipient=one, status="2.0.0", diagnostic="")


class Links:
    page = ""

    def bounces(self, mailing_list: Address, member: Address | None) -> Address:
        return Address(f"{mailing_list.local}-bounces+{member.local if member else ''}", mailing_list.domain)

    def link(self, mailing_list: Address, member: Address) -> str:
        return self.page


def listed(number: int, name: str) -> Recipient:
    return Recipient(number, address_from(name), NEWS, "", frozenset({LISTED}))


def octets(content: Content) -> bytes:
    return b"".join(content.chunks())


def entry_of(*recipients: Recipient, message: bytes = MESSAGE, sender: str = "ada@out.test") -> Entry:
    path = address_from(sender) if sender else NULL_SENDER
    return Entry(7, 1.0, Envelope(path, recipients, envid="x", ret="FULL"), (), MemoryContent(message))


class ListedCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.inner, self.links = Inner(), Links()
        self.bounced: list[tuple[str, str]] = []
        self.mailing_list: Resolution = MailingList(NEWS, (), title="The news", open=True)

    def attempt(self, each: bool, *recipients: Recipient, message: bytes = MESSAGE) -> list[Outcome]:
        agent = ListedAgent(
            self.inner,
            lambda address: self.mailing_list,
            self.links,
            lambda mailing_list, member: self.bounced.append((str(mailing_list), str(member))),
            each,
        )
        entry = entry_of(*recipients, message=message)
        found = list(self.successResultOf(agent.attempt(entry, recipients)))
        assert {id(one.recipient) for one in found} == {id(one) for one in recipients}, "as they were asked"
        return found

    def test_what_is_no_list_s_passes_untouched(self) -> None:
        one = Recipient(0, NEWS, NEWS)
        self.attempt(True, one)
        assert self.inner.asked[0][1] == (one,)
        assert octets(self.inner.asked[0][0].content) == MESSAGE

    def test_each_member_elsewhere_has_a_path_of_its_own(self) -> None:
        direct = Recipient(2, address_from("eve@c.test"), address_from("eve@c.test"))
        self.attempt(True, listed(0, "bob@b.test"), listed(1, "carol@b.test"), direct)
        paths = [str(entry.envelope.reverse_path) for entry, _ in self.inner.asked]
        assert sorted(paths) == ["ada@out.test", "news-bounces+bob@a.test", "news-bounces+carol@a.test"]
        copy, (as_sent,) = next(x for x in self.inner.asked if "bob" in str(x[0].envelope.reverse_path))
        assert as_sent.notify == frozenset(), "no server is told a word of ours"
        assert as_sent.original == as_sent.address, "it is no forward"
        assert (copy.envelope.envid, copy.envelope.ret) == ("", "HDRS")

    def test_members_here_share_one_copy(self) -> None:
        self.attempt(False, listed(0, "bob@a.test"), listed(1, "carol@a.test"))
        ((entry, recipients),) = self.inner.asked
        assert len(recipients) == 2
        assert str(entry.envelope.reverse_path) == "news-bounces+@a.test"

    def test_the_header_has_this_list_s_fields_alone(self) -> None:
        self.links.page = "https://lists.a.test/leave?x=1"
        self.attempt(True, listed(0, "bob@b.test"))
        head, _, body = octets(self.inner.asked[0][0].content).partition(b"\r\n\r\n")
        lines = head.replace(b"\r\n\t", b" ").decode().split("\r\n")
        assert lines == [
            "Delivered-To: news@a.test",
            'List-Id: "The news" <news.a.test>',
            "List-Post: <mailto:news@a.test>",
            "List-Help: <mailto:news-request@a.test?subject=help>",
            "List-Unsubscribe: <https://lists.a.test/leave?x=1>, "
            "<mailto:news-request@a.test?subject=unsubscribe>",
            "List-Owner: <mailto:news-owner@a.test>",
            "Precedence: list",
            "List-Subscribe: <mailto:news-request@a.test?subject=subscribe>",
            "List-Unsubscribe-Post: List-Unsubscribe=One-Click",
            "Received: by x",
            "Subject: x",
        ]
        assert body == b"List-Id: not a field\r\n"

    def test_without_a_page_there_is_no_one_click(self) -> None:
        self.mailing_list = MailingList(NEWS, (), posters="owners")
        self.attempt(True, listed(0, "bob@b.test"))
        head = octets(self.inner.asked[0][0].content)
        assert b"List-Unsubscribe-Post" not in head
        assert b"List-Subscribe" not in head
        assert b"List-Post: NO\r\n" in head

    def test_the_list_hears_of_failures_and_a_removed_list_still_delivers(self) -> None:
        self.inner.fails = {"bob@b.test"}
        self.attempt(True, listed(0, "bob@b.test"), listed(1, "carol@b.test"))
        assert self.bounced == [("news@a.test", "bob@b.test")]
        self.mailing_list = NoSuchUser(NEWS)
        outcomes = self.attempt(True, listed(1, "carol@b.test"))
        assert isinstance(outcomes[0], Relayed)

    def test_a_copy_that_comes_back_is_a_loop(self) -> None:
        (outcome,) = self.attempt(
            False, listed(0, "bob@a.test"), message=b"Delivered-To: News@A.test\r\n\r\n"
        )
        assert isinstance(outcome, Failed)
        assert outcome.status == "5.4.6"
        assert self.inner.asked == []

    def test_content_that_cannot_be_read_waits(self) -> None:
        class Gone(MemoryContent):
            def chunks(self):  # type: ignore[no-untyped-def]
                raise OSError("the disk")

        one = listed(0, "bob@a.test")
        agent = ListedAgent(self.inner, lambda a: self.mailing_list, self.links, lambda a, b: None, False)
        entry = Entry(7, 1.0, Envelope(NEWS, (one,)), (), Gone(b""))
        (outcome,) = self.successResultOf(agent.attempt(entry, [one]))
        assert isinstance(outcome, Delayed)
        self.flushLoggedErrors(OSError)


class ForwardingCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.inner = Inner()

    def attempt(self, sender: str, *recipients: Recipient) -> None:
        def rewritten(path: Address, domain: str) -> Address | None:
            return None if path.domain == "a.test" else Address(f"SRS0=x={path.local}", domain)

        agent = ForwardingAgent(self.inner, rewritten)
        outcomes = self.successResultOf(agent.attempt(entry_of(*recipients, sender=sender), recipients))
        assert {one.recipient.number for one in outcomes} == {one.number for one in recipients}

    def test_forwards_are_rewritten_and_marked_and_the_rest_is_not(self) -> None:
        forward = Recipient(0, address_from("bob@b.test"), address_from("fwd@a.test"))
        direct = Recipient(1, address_from("eve@b.test"), address_from("eve@b.test"))
        self.attempt("x@out.test", forward, direct)
        (first, _), (second, _) = self.inner.asked
        assert str(first.envelope.reverse_path) == "x@out.test"
        assert octets(first.content) == MESSAGE
        assert str(second.envelope.reverse_path) == "SRS0=x=x@a.test"
        assert octets(second.content) == b"Delivered-To: fwd@a.test\r\n" + MESSAGE

    def test_reports_and_our_own_senders_keep_their_path(self) -> None:
        forward = Recipient(0, address_from("bob@b.test"), address_from("fwd@a.test"))
        for sender in ("", "ada@a.test"):
            self.attempt(sender, forward)
            assert str(self.inner.asked[-1][0].envelope.reverse_path) == sender


def test_each_final_recipient_once_however_many_ways_lead_there() -> None:
    from mailserver.values.account import Alias, LocalUser

    def resolve(address: Address) -> Resolution:
        name = str(address)
        if name == "all@a.test":
            return Alias(address, (NEWS, address_from("ada@a.test"), address_from("bob@b.test")))
        if name == "news@a.test":
            inner = address_from("inner@a.test")
            return MailingList(NEWS, (address_from("ada@a.test"), inner, address_from("bob@b.test")))
        if name == "inner@a.test":
            return MailingList(address, (NEWS, address_from("carol@c.test"), address_from("ada@a.test")))
        if address.domain != "a.test":
            return Elsewhere(address)
        from mailserver.values.account import Account

        return LocalUser(Account(address))

    asked = [
        (address_from(name), "", frozenset[str]()) for name in ("ada@a.test", "all@a.test", "news@a.test")
    ]
    found = {str(one.address): one for one in final_recipients(resolve, asked)}
    assert sorted(found) == ["ada@a.test", "bob@b.test", "carol@c.test"]
    assert not found["ada@a.test"].is_listed, "asked for directly"
    assert found["bob@b.test"].is_listed
    assert str(found["carol@c.test"].original) == "inner@a.test", "the list that leads there"
