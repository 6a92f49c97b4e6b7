"""LMTP towards another store: our own LMTP server's dialogue, and one that misbehaves."""

from collections.abc import Callable
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Factory
from twisted.protocols.basic import LineReceiver
from twisted.trial.unittest import TestCase

from mailserver.deliver.lmtp import LmtpAgent
from mailserver.deliver.turns import Room, Turns
from mailserver.values.content import FileContent
from mailserver.values.outcome import Delayed, Delivered, Failed, Outcome
from tests.deliver.test_command import HELLO, entry_of, people
from tests.scratch import scratch_path


class Store(LineReceiver):
    """Takes everything but u1's; after the message u2's mailbox turns out to be full."""

    def __init__(self, says: Callable[[str], str | None], seen: list[str]) -> None:
        self.says, self.seen, self.accepted, self.content = says, seen, list[str](), None

    left = False

    def connectionMade(self) -> None:
        self.answer(self.says("connect") or "220 store LMTP")

    def answer(self, text: str) -> None:
        if self.left:
            return
        if text == "hang up":
            self.left = True
            self.transport.loseConnection()
        else:
            self.sendLine(text.encode())

    def lineReceived(self, line: bytes) -> None:
        text = line.decode()
        if self.content is not None:
            self.content.append(text)
            if text == ".":
                self.content = None
                for one in self.accepted:
                    self.answer(self.says(f"end {one}") or "250 2.1.5 kept")
            return
        self.seen.append(text)
        own = self.says(text)
        if own:
            self.answer(own)
        elif text.startswith("LHLO"):
            self.answer("250-store\r\n250-PIPELINING\r\n250 8BITMIME")
        elif text == "DATA":
            self.content = []
            self.answer("354 go on")
        else:
            self.answer("250 ok")
        if text.startswith("RCPT") and (own or "250").startswith("250"):
            self.accepted.append(text.partition("<")[2].partition("@")[0])


class LmtpCase(TestCase):
    async def outcomes(
        self, says: Callable[[str], str | None], count: int = 3, **of: object
    ) -> list[Outcome]:
        self.seen: list[str] = []
        path = Path("/tmp") / f"lmtp-{id(self):x}-{len(self.seen)}"  # a socket's path must be short
        factory = Factory.forProtocol(lambda: Store(says, self.seen))
        port = await serverFromString(reactor, f"unix:{path}").listen(factory)
        agent = LmtpAgent(reactor, f"unix:{path}", "mx.example.test", Turns(2, 2, Room(10)))
        everybody = people(count)
        try:
            return list(await agent.attempt(entry_of(*everybody, **of), everybody))  # type: ignore[arg-type]
        finally:
            await port.stopListening()

    async def test_each_recipient_has_a_reply_of_its_own(self) -> None:
        answers = {"RCPT TO:<u1@example.test>": "550 5.1.1 unknown", "end u2": "452 4.2.2 full"}
        outcomes = await self.outcomes(answers.get)
        assert [type(one) for one in outcomes] == [Delivered, Failed, Delayed]
        assert [one.status for one in outcomes] == ["2.1.5", "5.1.1", "4.2.2"]
        assert self.seen[0] == "LHLO mx.example.test"
        assert self.seen[1].startswith("MAIL FROM:<bob@b.test>")

    async def test_refused_before_the_message(self) -> None:
        for command, code, kind in (("MAIL", "550 no", Failed), ("DATA", "451 later", Delayed)):
            outcomes = await self.outcomes(lambda said, c=command, r=code: r if said.startswith(c) else None)
            assert [type(one) for one in outcomes] == [kind] * 3, command

    async def test_a_store_that_is_away_or_leaves(self) -> None:
        for moment in ("connect", "RCPT TO:<u1@example.test>", "DATA", "end u1"):
            outcomes = await self.outcomes(lambda said, m=moment: "hang up" if said == m else None)
            expected = [Delivered, Delayed, Delayed] if moment == "end u1" else [Delayed] * 3
            assert [type(one) for one in outcomes] == expected, moment
        agent = LmtpAgent(reactor, "unix:/no/such/socket", "mx", Turns(2, 2, Room(10)))
        (outcome,) = await agent.attempt(entry_of(*people(1)), people(1))
        assert isinstance(outcome, Delayed)
        assert outcome.status == "4.4.1"

    async def test_a_large_message_and_its_dots(self) -> None:
        path = scratch_path(self)
        path.write_bytes(HELLO + b"..\r\n" * 50_000)
        outcomes = await self.outcomes(lambda said: None, content=FileContent(path, path.stat().st_size))
        assert [type(one) for one in outcomes] == [Delivered] * 3
