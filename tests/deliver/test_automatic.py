"""Automatic answers: to whom never, once in seven days, in whose language; and what lists are asked."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from mailserver.accounts.away import AGAIN_SECONDS, AnswersGiven
from mailserver.deliver.automatic import header_of, may_be_answered
from mailserver.deliver.away import Answers
from mailserver.deliver.robots import BounceRobot, Request, RequestRobot, RobotPlace, request_in
from mailserver.values.account import Account, Away, MailingList
from mailserver.values.address import NULL_SENDER, Address, address_from
from mailserver.values.content import MemoryContent
from mailserver.values.envelope import LISTED, Entry, Envelope, Recipient
from tests.scratch import scratch_path

ADA, BOB, NEWS = map(address_from, ("ada@a.test", "bob@b.test", "news@a.test"))
FIELDS = "To: Ada <ADA@a.test>\r\nSubject: x\r\n"


def header(fields: str = FIELDS) -> Any:
    return header_of(fields.encode() + b"\r\n")


@pytest.mark.parametrize(
    "field",
    [
        "Auto-Submitted: auto-replied",
        "Auto-Submitted: AUTO-GENERATED; x=1",
        "Precedence: bulk",
        "Precedence: List",
        "List-Id: <x.y>",
        "List-Unsubscribe: <mailto:x@y.test>",
        "X-Auto-Response-Suppress: All",
        "X-Auto-Response-Suppress: DR, OOF",
    ],
)
def test_programs_are_not_answered(field: str) -> None:
    assert not may_be_answered(BOB, header(f"{FIELDS}{field}\r\n"))


@pytest.mark.parametrize(
    "sender",
    ["MAILER-DAEMON@b.test", "owner-x@b.test", "x-request@b.test", "x-owner+y@b.test", "x-bounces+z@b.test",
     "SRS0=a=b=c=d@b.test", "prvs=123=x@b.test", "no-reply@b.test", "postmaster@b.test"],
)  # fmt: skip
def test_senders_that_no_person_reads(sender: str) -> None:
    assert not may_be_answered(address_from(sender), header())


def test_people_are_answered() -> None:
    assert may_be_answered(BOB, header())
    assert may_be_answered(BOB, header(f"{FIELDS}Auto-Submitted: No\r\nPrecedence: first-class\r\n"))
    assert not may_be_answered(NULL_SENDER, header())


class AtOnce:
    def call(self, function: Any, *arguments: Any) -> Deferred[Any]:
        try:
            return succeed(function(*arguments))
        except Exception:
            failed: Deferred[Any] = Deferred()
            failed.errback()
            return failed


class AwayCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.now = 1_700_000_000.0
        self.sent: list[tuple[Envelope, bytes]] = []
        path = scratch_path(self)
        path.mkdir()
        workers: Any = AtOnce()
        given = AnswersGiven(path / "away.sqlite", lambda: self.now)
        self.answers = Answers(given.claim, workers, self.send, "mx.a.test", "en", lambda: self.now)

    def send(self, envelope: Envelope, content: bytes, about: Entry) -> Deferred[None]:
        self.sent.append((envelope, content))
        return succeed(None)

    def deliver(
        self,
        away: Away | None = None,
        sender: Address = BOB,
        fields: str = FIELDS,
        language: str = "",
        original: Address = ADA,
        notify: frozenset[str] = frozenset(),
    ) -> int:
        one = Recipient(0, ADA, original, "", notify)
        entry = Entry(1, 1.0, Envelope(sender, (one,)), (), MemoryContent(fields.encode() + b"\r\nHello\r\n"))
        account = Account(ADA, language=language, away=away or Away("Gone."))
        self.answers.delivered(entry, one, account)
        return len(self.sent)

    def test_once_in_seven_days_for_each_sender(self) -> None:
        assert self.deliver() == 1
        assert self.deliver() == 1
        assert self.deliver(sender=address_from("BOB@b.test")) == 1
        assert self.deliver(sender=address_from("carol@b.test")) == 2
        self.now += AGAIN_SECONDS - 1
        assert self.deliver() == 2
        self.now += 2
        assert self.deliver() == 3
        assert self.deliver(Away("Another text.")) == 4, "who goes away anew answers anew"

    def test_the_answer(self) -> None:
        self.deliver(fields=f"{FIELDS}Message-ID: <1@b.test>\r\n", away=Away("Zurück am Montag.\n"))
        ((envelope, content),) = self.sent
        assert envelope.reverse_path == NULL_SENDER
        assert [str(one.address) for one in envelope.recipients] == ["bob@b.test"]
        assert envelope.recipients[0].notify == {"NEVER"}
        text = content.decode()
        for line in ("From: <ada@a.test>", "To: <bob@b.test>", "Auto-Submitted: auto-replied",
                     "In-Reply-To: <1@b.test>", "Precedence: bulk"):  # fmt: skip
            assert f"{line}\r\n" in text, line
        assert text.endswith("\r\n\r\nZurück am Montag.\r\n")
        assert "\n" not in text.replace("\r\n", "")

    def test_only_between_its_moments(self) -> None:
        assert self.deliver(Away("x", begins=self.now + 1)) == 0
        assert self.deliver(Away("x", ends=self.now)) == 0
        assert self.deliver(Away("x", begins=self.now, ends=self.now + 1)) == 1

    def test_not_about_what_was_not_meant_for_the_account(self) -> None:
        assert self.deliver(fields="To: all@a.test\r\n") == 0
        assert self.deliver(notify=frozenset({LISTED})) == 0
        assert self.deliver(sender=ADA) == 0
        assert self.deliver(fields='To: "unclosed\r\nCc: x\r\n') == 0
        assert self.deliver(fields="Cc: Sales <sales@a.test>\r\n", original=address_from("sales@a.test")) == 1

    def test_without_a_text_the_server_speaks_the_account_s_language(self) -> None:
        for language in ("en", "tr", "uk", "fa"):
            self.sent.clear()
            self.deliver(
                Away("", ends=self.now + 86400), address_from(f"{language}@b.test"), language=language
            )
            text = self.sent[0][1].decode()
            assert f"Content-Language: {language}\r\n" in text
            assert "ada@a.test" in text.partition("\r\n\r\n")[2]


class Lists:
    def __init__(self) -> None:
        self.members = {"ada@a.test"}
        self.open = True
        self.counted: list[str] = []

    def mailing_list(self, address: Address) -> MailingList:
        if address != NEWS:
            raise KeyError(address)
        return MailingList(NEWS, tuple(map(address_from, self.members)), (ADA,), open=self.open)

    def add_members(self, address: Address, members: Any) -> int:
        if set(map(str, members)) <= self.members:
            raise ValueError
        self.members |= set(map(str, members))
        return 1

    def remove_members(self, address: Address, members: Any) -> None:
        if not set(map(str, members)) <= self.members:
            raise KeyError
        self.members -= set(map(str, members))

    def bounced(self, address: Address, member: Address, limit: int) -> bool:
        self.counted.append(f"{member} {limit}")
        return False


class RobotCase(SynchronousTestCase):
    def setUp(self) -> None:
        from mailserver.accounts.list_tokens import ListTokens

        self.sent: list[tuple[Envelope, bytes]] = []
        self.lists = Lists()
        self.tokens = ListTokens(lambda: b"k" * 32, lambda: 1_700_000_000.0)
        workers: Any = AtOnce()
        self.now = 1.0
        self.place = RobotPlace(
            self.lists,
            self.tokens,
            workers,
            self.send,
            "mx.a.test",
            lambda: self.now,
            5,
            KeyError,
            ValueError,
        )
        self.robot = RequestRobot(self.place, NEWS)

    def send(self, envelope: Envelope, content: bytes, about: Entry) -> Deferred[None]:
        self.sent.append((envelope, content))
        return succeed(None)

    def ask(self, subject: str, sender: str = "bob@b.test", robot: Any = None, body: str = "") -> str:
        one = Recipient(0, address_from("news-request@a.test"), address_from("news-request@a.test"))
        octets = f"Subject: {subject}\r\n\r\n{body}\r\n".encode()
        path = address_from(sender) if sender else NULL_SENDER
        entry = Entry(1, 1.0, Envelope(path, (one,)), (), MemoryContent(octets))
        robot = robot or self.robot
        self.now += 301.0
        (outcome,) = self.successResultOf(robot.attempt(entry, [one]))
        return str(outcome.diagnostic)

    def answered(self) -> tuple[str, str]:
        fields, _, words = self.sent[-1][1].decode().partition("\r\n\r\n")
        return fields.partition("Subject: ")[2].partition("\r\n")[0], words

    def test_subscribe_and_unsubscribe_once_confirmed(self) -> None:
        for command, inside in (("subscribe", True), ("unsubscribe", False)):
            self.ask(command)
            subject, words = self.answered()
            assert ("bob@b.test" in self.lists.members) is not inside, "nothing yet"
            assert subject in words
            self.ask(f"Re: {subject}")
            assert ("bob@b.test" in self.lists.members) is inside
            self.ask(f"AW: Re: {subject}")  # once more changes nothing, and is no error
            assert self.answered()[0] == f"Done: {command}"

    def test_a_forged_confirmation_does_nothing(self) -> None:
        self.ask("confirm abcdefabcdef subscribe bob@b.test")
        assert self.answered()[0] == "Not confirmed"
        self.ask("subscribe")
        subject = self.answered()[0]
        self.ask(subject.replace("bob@b.test", "eve@b.test"))
        self.ask(subject.replace("subscribe", "unsubscribe"))
        self.lists.open = False
        self.ask(subject)
        assert self.lists.members == {"ada@a.test"}

    def test_a_closed_list_names_its_owner_and_help_helps(self) -> None:
        self.lists.open = False
        self.ask("subscribe")
        assert "news-owner@a.test" in self.answered()[1]
        self.ask("what is this?")
        assert "unsubscribe" in self.answered()[1]
        self.ask("", body="unsubscribe\r\n")
        assert self.answered()[0].startswith("confirm ")

    def test_automatic_mail_is_never_answered(self) -> None:
        self.ask("subscribe", sender="")
        self.ask("subscribe\r\nAuto-Submitted: auto-replied")
        assert self.sent == []

    def test_a_forged_sender_is_not_flooded(self) -> None:
        for _ in range(3):
            self.ask("subscribe")
            self.now -= 301.0
        assert len(self.sent) == 1
        for n in range(300):
            self.ask("help", f"x{n}@b.test")
            self.now -= 301.0
        assert len(self.sent) == 200

    def test_members_and_others_get_the_same_answer(self) -> None:
        self.ask("unsubscribe", sender="ada@a.test")
        self.ask("unsubscribe", sender="eve@b.test")
        first, second = (
            content.decode().partition("Precedence")[2].replace("ada@a.test", "").replace("eve@b.test", "")
            for _, content in self.sent
        )
        assert len(first) == len(second)

    def test_bounces_are_counted_for_whom_the_path_names(self) -> None:
        robot = BounceRobot(self.place, NEWS)
        path = self.tokens.bounces(NEWS, ADA)
        reports = (
            ("Action: failed\r\n", path, ["ada@a.test 5"]),
            ("Action: delayed\r\n", path, []),
            ("I am away\r\n", path, []),
            ("action:  FAILED\r\n", address_from("news-bounces+xxxxxxxxxxxx@a.test"), []),
        )
        for body, address, counted in reports:
            self.lists.counted.clear()
            one = Recipient(0, address, address)
            content = MemoryContent(b"Subject: no\r\n\r\n" + body.encode())
            entry = Entry(1, 1.0, Envelope(NULL_SENDER, (one,)), (), content)
            self.successResultOf(robot.attempt(entry, [one]))
            assert self.lists.counted == counted, body

    def test_what_is_asked(self) -> None:
        for subject, body, expected in (
            ("Subscribe me please", "", "subscribe"),
            ("=?utf-8?b?c3Vic2NyaWJl?=", "", "subscribe"),
            ("hello", "help", "help"),
            ("=?broken", "", ""),
            ("confirm x", "", ""),
        ):
            assert request_in(header(f"Subject: {subject}\r\n"), body.encode()) == Request(expected), subject
