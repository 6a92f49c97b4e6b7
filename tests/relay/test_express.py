"""Many messages for one server: whoever goes along with another, each arrives once and is told so."""

import re
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from mailserver.relay.agent import RelayAgent
from mailserver.relay.destinations import Pace
from mailserver.values.content import MemoryContent
from mailserver.values.outcome import Delayed, Failed, Outcome, Relayed

from .peers import DROP, EHLO, Peer, PeerSession
from .test_agent import AgentCase, Exchanges, entry

MESSAGES = 40


class Watching(PeerSession):
    """Counts the messages whose content brings the next one's commands."""

    def dataReceived(self, data: bytes) -> None:
        self.peer.together += data.count(b"\r\n.\r\nMAIL FROM")  # type: ignore[attr-defined]
        super().dataReceived(data)


class ExpressTests(AgentCase):
    def setUp(self) -> None:
        super().setUp()
        self.agent = RelayAgent(reactor, Exchanges(self.hosts), "mx.a.test", Pace(2))

    def watched(self, **more: Any) -> Peer:
        peer = self.peer(**more)
        peer.protocol, peer.together = Watching, 0  # type: ignore[attr-defined]
        # The factory is made already: it makes sessions of this class from now on.
        peer.listening.factory.protocol = Watching
        return peer

    async def burst(self, domain: str = "b.test") -> list[Outcome]:
        """So many messages at once; the one outcome of each."""
        sent = []
        for number in range(MESSAGES):
            message = entry(f"u{number}@{domain}", content=MemoryContent(b"X-N: %d\r\n" % number))
            sent.append(self.agent.attempt(message, message.envelope.recipients))
        found: Sequence[Sequence[Outcome]] = await gatherResults(sent)
        assert [o.recipient.address.local for (o,) in found] == [f"u{n}" for n in range(MESSAGES)]
        return [outcome for (outcome,) in found]

    def arrived(self, peer: Peer) -> list[int]:
        return sorted(int(re.findall(rb"X-N: (\d+)", message)[0]) for message in peer.messages)

    async def test_most_go_along_and_each_arrives_once(self) -> None:
        peer = self.watched()
        assert {type(o) for o in await self.burst()} == {Relayed}
        assert self.arrived(peer) == list(range(MESSAGES))
        assert peer.together > MESSAGES // 2  # type: ignore[attr-defined]
        assert self.agent.destinations.busy == 0

    async def test_each_has_its_own_outcome(self) -> None:
        def rcpt(line: str) -> str:
            number = int(re.findall(r"u(\d+)@", line)[0])
            return f"550 5.1.1 u{number}" if number % 3 == 0 else "250 2.1.5 ok"

        def dot(line: str) -> str:
            found = re.findall(rb"X-N: (\d+)", peer.messages[-1])  # none: a lone dot, for nobody
            return "452 4.3.1 later" if found and int(found[0]) % 5 == 1 else "250 2.0.0 ok"

        peer = self.watched(RCPT=rcpt, dot=dot)
        outcomes = await self.burst()
        refused = {n for n in range(MESSAGES) if n % 3 == 0}
        assert {n for n, o in enumerate(outcomes) if isinstance(o, Failed)} == refused
        assert all(f"u{n}" in outcomes[n].diagnostic for n in refused)
        delayed = {n for n, o in enumerate(outcomes) if isinstance(o, Delayed)}
        assert delayed == {n for n in range(MESSAGES) if n % 5 == 1} - refused
        peer.messages = [message for message in peer.messages if message]
        assert self.arrived(peer) == sorted(set(range(MESSAGES)) - refused)
        assert self.agent.destinations.busy == 0

    async def cut(self, when: str, nth: int) -> tuple[Peer, list[Outcome]]:
        """The server cuts the connection at the ``nth`` such command."""
        count = 0

        def answer(line: str) -> str:
            nonlocal count
            count += 1
            if count == nth:
                return DROP
            return "354 go" if when == "DATA" else "250 2.0.0 ok"

        peer = self.watched(**{when: answer})
        return peer, await self.burst()

    async def test_a_cut_at_the_end_of_data_costs_one_message_a_delay(self) -> None:
        """The server may have that one; those behind it have not begun, and go another way."""
        peer, outcomes = await self.cut("dot", 15)
        assert [type(o) for o in outcomes].count(Delayed) == 1
        assert self.arrived(peer) == list(range(MESSAGES))
        assert peer.together > MESSAGES // 3  # type: ignore[attr-defined]
        assert self.agent.destinations.busy == 0

    async def test_a_cut_before_content_costs_nothing(self) -> None:
        for when in ("MAIL", "RCPT", "DATA"):
            peer, outcomes = await self.cut(when, 15)
            assert {type(o) for o in outcomes} == {Relayed}, when
            assert self.arrived(peer) == list(range(MESSAGES)), when
            assert self.agent.destinations.busy == 0

    async def test_chunks_go_along_too(self) -> None:
        """A server that takes BDAT gets RSET before what is behind it."""
        peer = self.peer(EHLO=EHLO.replace("DSN", "CHUNKING"))
        peer.listening.factory.protocol = chunking(peer)
        assert {type(o) for o in await self.burst()} == {Relayed}
        assert self.arrived(peer) == list(range(MESSAGES))
        assert peer.said("RSET")

    async def test_a_stop_in_between_loses_nothing(self) -> None:
        peer = self.watched()
        waiting = Deferred.fromCoroutine(self.burst())
        while len(peer.messages) < 5:
            await self.pause()
        await self.agent.stop()
        outcomes = await waiting
        told = {n for n, o in enumerate(outcomes) if isinstance(o, Relayed)}
        assert set(self.arrived(peer)) == told
        assert len(self.arrived(peer)) == len(told)


def chunking(peer: Peer) -> Callable[[], PeerSession]:
    """A session that takes BDAT."""

    class Chunking(PeerSession):
        def lineReceived(self, line: bytes) -> None:
            if line.startswith(b"BDAT"):
                self.left, self.octets = int(line.split()[1]), b""
                self.setRawMode()
            else:
                super().lineReceived(line)

        def rawDataReceived(self, data: bytes) -> None:
            self.octets += data[: self.left]
            rest, self.left = data[self.left :], self.left - len(data)
            if self.left <= 0:
                peer.messages.append(self.octets)
                self.transport.write(b"250 2.0.0 ok\r\n")
                self.setLineMode(rest)

    return Chunking
