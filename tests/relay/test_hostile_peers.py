"""Peers that no standard describes: each recipient has one outcome, and never a false one."""

from typing import Any

from twisted.internet.defer import Deferred

from mailserver.interfaces import Exchange
from mailserver.values.content import MemoryContent
from mailserver.values.outcome import Delayed, Failed, Outcome, Relayed

from .peers import EHLO, Peer, PeerSession
from .test_agent import AgentCase, entry

VERBS = ("CONNECT", "EHLO", "MAIL", "RCPT", "DATA", ".")
SLOW = EHLO.replace("250-PIPELINING\r\n", "")
LARGE = MemoryContent(b"Subject: x\r\n\r\n" + b"0123456789abcdef\r\n" * 200_000)


class HostileTests(AgentCase):
    def speaking(self, protocol: type[PeerSession], **more: Any) -> Peer:
        peer = Peer(**more)
        peer.protocol = protocol
        self.addCleanup(lambda: Deferred.fromCoroutine(peer.stop()))
        self.hosts["b.test"] = [Exchange("mx.b.test", peer.start(), ("127.0.0.1",))]
        return peer

    async def outcome(self, **replies: Any) -> Outcome:
        self.peer(**replies)
        return await self.one()

    # Codes ---------------------------------------------------------------------------------------

    async def test_codes_that_are_no_answer_delay(self) -> None:
        for greeting in (EHLO, SLOW):
            for verb in VERBS:
                for reply in (
                    "150 wait",
                    "099 hm",
                    "600 what",
                    "999",
                    "25",
                    "2500 ok",
                    "250",
                    "hello",
                    "",
                    "250x",
                ):
                    if reply == "250" and verb != "CONNECT":
                        continue
                    peer = self.peer(EHLO=greeting)
                    peer.replies[verb] = reply
                    outcome = await self.one()
                    assert isinstance(outcome, Delayed), (verb, reply, outcome)

    async def test_a_3yz_where_none_belongs_delays(self) -> None:
        for greeting in (EHLO, SLOW):
            for verb in VERBS:
                peer = self.peer(EHLO=greeting)
                peer.replies[verb] = "334 go on" if verb == "DATA" else "354 go on"
                assert isinstance(await self.one(), Delayed), verb
                assert peer.messages == [] or verb == "."

    async def test_a_yes_to_data_is_no_invitation(self) -> None:
        for reply in ("250 ok", "220 go", "221 bye"):
            peer = self.peer(DATA=reply)
            assert isinstance(await self.one(), Delayed), reply
            assert peer.messages == []

    async def test_of_lines_with_different_codes_the_last_decides(self) -> None:
        # As with other servers: to wait for such a host to mend itself would be to send doubles for days.
        for first, last, kind in (("250", "550", Failed), ("550", "250", Relayed), ("421", "250", Relayed)):
            for verb in ("RCPT", "."):
                peer = self.peer()
                peer.replies[verb] = f"{first}-one\r\n{last} two"
                assert type(await self.one()) is kind, (verb, first, last)

    async def test_enhanced_codes_of_another_class_are_left_out(self) -> None:
        for reply, kind, status in (
            ("250 5.1.1 yes", Relayed, "2.0.0"),
            ("550 2.0.0 no", Failed, "5.0.0"),
            ("450 5.1.1 later", Delayed, "4.0.0"),
            ("550 5.1.1111 no", Failed, "5.0.0"),
            ("550 5.1.1x no", Failed, "5.0.0"),
        ):
            outcome = await self.outcome(dot=reply)
            assert (type(outcome), outcome.status) == (kind, status), reply

    async def test_control_characters_and_octets_stay_printable(self) -> None:
        outcome = await self.outcome(RCPT="550 5.1.1 \x1b[31m\x00\x07 no\x7f\u202e\u2028")
        assert isinstance(outcome, Failed)
        assert outcome.diagnostic.isprintable()

    # Order ---------------------------------------------------------------------------------------

    async def test_everything_said_before_it_is_asked(self) -> None:
        flood = "\r\n".join(
            ["220 hi", "250 peer.test", *["250 ok"] * 5, "354 go", "250 queued", "250 queued"]
        )
        for verb in VERBS[:-1]:
            peer = self.peer()
            peer.replies[verb] = flood if verb == "CONNECT" else flood.partition("\r\n")[2]
            assert isinstance(await self.one(), Delayed), verb
            assert peer.messages == []

    async def test_one_reply_too_many_after_a_message_ends_the_session_and_not_its_outcome(self) -> None:
        peer = self.peer(dot="250 queued\r\n250 and again")
        assert isinstance(await self.one(), Relayed)
        peer.replies["."] = "250 queued"
        assert isinstance(await self.one(), Relayed)
        assert peer.connections == 2
        assert len(peer.messages) == 2

    async def test_one_reply_too_few_is_never_a_yes(self) -> None:
        silent: list[str] = []

        class Swallowing(PeerSession):
            def answer(self, verb: str, line: str) -> None:
                if verb not in silent:
                    super().answer(verb, line)

        for verb in ("MAIL", "RCPT"):
            silent[:] = [verb]
            peer = self.speaking(Swallowing)
            waiting = Deferred.fromCoroutine(self.one())
            await self.pause()
            await self.pause()
            for session in self.agent.dialler.sessions:
                session._deadline.move(0)
            assert isinstance(await waiting, Delayed), verb
            assert peer.messages == []

    async def test_the_yes_and_then_a_reset(self) -> None:
        class Resetting(PeerSession):
            def answer(self, verb: str, line: str) -> None:
                if verb == ".":
                    # On the wire before the reset: what Twisted still holds would go with it.
                    self.transport.getHandle().send(b"250 2.0.0 queued\r\n")
                    self.transport.abortConnection()
                else:
                    super().answer(verb, line)

        for content in (MemoryContent(b"Subject: x\r\n\r\n"), LARGE):
            peer = self.speaking(Resetting)
            for number in (1, 2):
                (outcome,) = await self.attempt(entry("x@b.test", content=content))
                assert isinstance(outcome, Relayed)
                assert (peer.connections, len(peer.messages)) == (number, number)

    async def test_the_yes_and_then_the_end(self) -> None:
        class Leaving(PeerSession):
            def answer(self, verb: str, line: str) -> None:
                super().answer(verb, line)
                if verb == ".":
                    self.transport.loseConnection()

        peer = self.speaking(Leaving)
        for _ in range(3):
            assert isinstance(await self.one(), Relayed)
        assert (peer.connections, len(peer.messages)) == (3, 3)

    async def test_a_refusal_in_the_middle_of_large_content(self) -> None:
        class Refusing(PeerSession):
            def lineReceived(self, line: bytes) -> None:
                if self.in_data and not self.dropping and len(self.text) == 100:
                    self.transport.write(self.peer.replies["middle"].encode() + b"\r\n")
                super().lineReceived(line)

        for reply, kind in (("552 5.3.4 too much", Failed), ("452 4.3.1 full", Delayed), ("250 ok", Delayed)):
            peer = self.speaking(Refusing, middle=reply)
            (outcome,) = await self.attempt(entry("x@b.test", content=LARGE))
            assert type(outcome) is kind, reply
            await self.pause()
            assert [c for c in peer.commands if c.split()[0] not in ("EHLO", "MAIL", "RCPT", "DATA")] == []

    # EHLO ----------------------------------------------------------------------------------------

    async def test_offers_of_all_kinds(self) -> None:
        for offer in (
            "250-peer\r\n" + "250-X-THING one two\r\n" * 240 + "250 PIPELINING",
            "250-peer\r\n250-SIZE\r\n250-SIZE 1 2 3\r\n250-SIZE -5\r\n250 SIZE 99999999999999999999999",
            "250-peer\r\n250-LIMITS RCPTMAX=0 MAILMAX=-1 RCPTDOMAINMAX=x =\r\n250 LIMITS",
            "250-peer\r\n250-AUTH\r\n250-AUTH=LOGIN\r\n250-\r\n250- \r\n250 =",
            "250 peer",
            "250-PIPELINING\r\n250 8BITMIME",
            "250",
        ):
            assert isinstance(await self.outcome(EHLO=offer), Relayed), offer[:60]

    async def test_a_thousand_lines_of_offers_are_too_many(self) -> None:
        outcome = await self.outcome(EHLO="250-peer\r\n" + "250-X-THING\r\n" * 1000 + "250 PIPELINING")
        assert isinstance(outcome, Delayed)
        assert "too long" in outcome.diagnostic

    async def test_limits_of_nothing_still_send(self) -> None:
        limits = EHLO + "\r\n250 LIMITS RCPTMAX=1 MAILMAX=1"
        peer = self.peer(EHLO=limits.replace("250 SIZE", "250-SIZE"))
        outcomes = await self.attempt(entry("x@b.test", "y@b.test", "z@b.test"))
        assert {type(outcome) for outcome in outcomes} == {Relayed}
        assert peer.connections == 3

    # Recipients ----------------------------------------------------------------------------------

    async def test_more_answers_than_recipients(self) -> None:
        peer = self.peer(RCPT="250 ok\r\n250 ok")
        outcomes = await self.attempt(entry("x@b.test", "y@b.test"))
        assert Relayed not in {type(outcome) for outcome in outcomes}
        assert peer.messages == []

    async def test_a_refusal_with_the_words_of_a_yes(self) -> None:
        answers = iter(["250 ok", "550 250 ok", "450 354 go", "252 perhaps", "251 elsewhere"])
        self.peer(RCPT=lambda line: next(answers))
        kinds = await self.kinds(entry(*[f"{name}@b.test" for name in "uvwxy"]))
        assert kinds == [Relayed, Failed, Delayed, Relayed, Relayed]

    # Chunks --------------------------------------------------------------------------------------

    async def test_chunks_that_are_refused_early(self) -> None:
        class Chunked(PeerSession):
            def answer(self, verb: str, line: str) -> None:
                if verb == "BDAT":
                    self.setRawMode()
                super().answer(verb, line)

            def rawDataReceived(self, data: bytes) -> None:
                pass

        offer = EHLO.replace("250 SIZE", "250-SIZE") + "\r\n250 CHUNKING"
        for reply, kind in (("503 5.5.1 no", Failed), ("421 4.3.0 bye", Delayed), ("250 thanks", Delayed)):
            self.speaking(Chunked, EHLO=offer, BDAT=reply)
            (outcome,) = await self.attempt(entry("x@b.test", content=LARGE))
            assert type(outcome) is kind, reply

    async def test_nothing_is_left_open(self) -> None:
        self.peer(dot="250 ok\r\n" * 3)
        await self.one()
        for _ in range(20):
            await self.pause()
            if not self.agent.dialler.sessions:
                break
        assert not self.agent.dialler.sessions
