"""The relay agent against scripted servers: every recipient gets exactly one outcome, the right one."""

import json
import socket
import time
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, gatherResults, succeed
from twisted.internet.task import deferLater
from twisted.python import log
from twisted.trial.unittest import TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailserver.config.routes import RouteSettings
from mailserver.interfaces import (
    Exchange,
    IDeliveryAgent,
    IMailExchanges,
    LookupDelayed,
    LoopsBack,
    NoSuchDomain,
    NullMX,
)
from mailserver.relay import agent as relay_agent
from mailserver.relay import destinations
from mailserver.relay.agent import RelayAgent
from mailserver.relay.destinations import Pace
from mailserver.relay.knowing import Knowing
from mailserver.relay.next_hops import NextHops
from mailserver.relay.protection import OPPORTUNISTIC, Level, Security
from mailserver.relay.routes import RouteTable
from mailserver.relay.sessions import Target
from mailserver.values.address import Address
from mailserver.values.content import Content, FileContent, MemoryContent
from mailserver.values.envelope import Entry, Envelope, Recipient, Waiting
from mailserver.values.outcome import STOPPING, Delayed, Failed, Outcome, Relayed
from tests.scratch import scratch_path

from .peers import DROP, EHLO, Peer, PeerSession

BODY = b"Subject: x\r\n\r\n.dot\r\n"


@implementer(IMailExchanges)
class Exchanges:
    """``hosts[domain]`` is a list of exchanges or an exception."""

    def __init__(self, hosts: dict[str, Any]) -> None:
        self.hosts = hosts

    def exchanges(self, domain: str) -> Deferred[Sequence[Exchange]]:
        found = self.hosts[domain]
        return fail(found) if isinstance(found, Exception) else succeed(found)


def entry(*addresses: str, content: Content | None = None, **more: Any) -> Entry:
    recipients = []
    for number, text in enumerate(addresses):
        local, _, domain = text.rpartition("@")
        recipients.append(Recipient(number, Address(local, domain), Address(local, domain)))
    values = {"reverse_path": Address("ada", "a.test"), **more}
    envelope = Envelope(recipients=tuple(recipients), **values)
    waiting = tuple(Waiting(recipient) for recipient in recipients)
    return Entry(7, 0.0, envelope, waiting, content or MemoryContent(BODY))


class AgentCase(TestCase):
    timeout = 30

    def setUp(self) -> None:
        self.hosts: dict[str, Any] = {}
        self.agent = RelayAgent(reactor, Exchanges(self.hosts), "mx.a.test")
        self.agent.start()
        # Clean-ups run backwards: the agent's, before each peer's.
        self.addCleanup(lambda: deferLater(reactor, 0, lambda: None))

    def tearDown(self) -> Deferred[None]:
        return self.agent.stop()

    def peer(self, domain: str = "b.test", **more: Any) -> Peer:
        """A peer that is the one exchange of ``domain``."""
        peer = Peer(**more)
        self.addCleanup(lambda: Deferred.fromCoroutine(peer.stop()))
        self.hosts[domain] = [Exchange(f"mx.{domain}", peer.start(), ("127.0.0.1",))]
        return peer

    def dead_port(self) -> int:
        """A port that nobody listens on."""
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            number: int = closed.getsockname()[1]
        return number

    async def pause(self) -> None:
        """Let the peer act."""
        await deferLater(reactor, 0.05, lambda: None)

    async def attempt(self, message: Entry) -> Sequence[Outcome]:
        recipients = [waiting.recipient for waiting in message.waiting]
        outcomes = await self.agent.attempt(message, recipients)
        assert [o.recipient for o in outcomes] == recipients
        for outcome in outcomes:
            assert outcome.diagnostic.isprintable()
            assert outcome.diagnostic
            expected = {Relayed: "2", Delayed: "4", Failed: "5"}[type(outcome)]  # type: ignore[index]
            assert outcome.status[0] == expected
        return outcomes

    async def one(self, message: Entry | None = None) -> Outcome:
        (outcome,) = await self.attempt(message or entry("x@b.test"))
        return outcome

    async def kinds(self, message: Entry) -> list[type]:
        return [type(outcome) for outcome in await self.attempt(message)]


class TransactionTests(AgentCase):
    async def test_provides_the_interface(self) -> None:
        verifyObject(IDeliveryAgent, self.agent)

    async def test_one_transaction_and_one_copy_for_all_at_one_destination(self) -> None:
        peer = self.peer(dot="250 2.6.0 queued as 17")
        self.hosts["c.test"] = self.hosts["b.test"]
        outcomes = await self.attempt(entry("x@b.test", "y@b.test", "z@c.test"))
        number = self.hosts["b.test"][0].port
        for outcome in outcomes:
            assert isinstance(outcome, Relayed)
            assert outcome.status == "2.6.0"
            assert outcome.diagnostic == "250 2.6.0 queued as 17"
            assert outcome.remote_mta == "mx.b.test"
            assert outcome.relay == f"mx.b.test[127.0.0.1]:{number}"
            assert outcome.notifies
        assert peer.connections == 1
        assert len(peer.said("MAIL")) == 1
        assert peer.messages == [b"Subject: x\r\n\r\n..dot\r\n"]
        assert peer.commands[0] == "EHLO mx.a.test"

    async def test_a_hundred_recipients_in_a_transaction(self) -> None:
        peer = self.peer()
        outcomes = await self.attempt(entry(*[f"u{n}@b.test" for n in range(250)]))
        assert {type(o) for o in outcomes} == {Relayed}
        assert len(peer.said("MAIL")) == 3
        assert len(peer.said("RCPT")) == 250

    async def test_each_recipient_has_its_own_reply(self) -> None:
        def rcpt(line: str) -> str:
            for word, reply in (("no", "550 5.1.1 no such"), ("later", "450 4.2.0 later"), ("many", "552 x")):
                if f"<{word}@" in line:
                    return reply
            return "250 ok"

        self.peer(RCPT=rcpt)
        message = entry("no@b.test", "yes@b.test", "later@b.test", "many@b.test")
        outcomes = await self.attempt(message)
        assert [type(o) for o in outcomes] == [Failed, Relayed, Delayed, Delayed]
        assert [o.status for o in outcomes] == ["5.1.1", "2.0.0", "4.2.0", "4.5.3"]
        assert outcomes[0].diagnostic == "550 5.1.1 no such"

    async def test_without_extensions(self) -> None:
        peer = self.peer(EHLO="500 what", HELO="250 old")
        assert isinstance(await self.one(entry("x@b.test", body="8BITMIME")), Relayed)
        assert peer.said("MAIL") == ["MAIL FROM:<ada@a.test>"]

    async def test_a_reply_of_many_strange_lines_is_one_printable_line(self) -> None:
        self.peer(MAIL="550-no\x1b[31m\r\n550-\r\n550 " + "x" * 3000)
        outcome = await self.one()
        assert isinstance(outcome, Failed)
        assert outcome.diagnostic.startswith("550 no?[31m")
        assert len(outcome.diagnostic) < 600

    async def test_the_final_reply_decides(self) -> None:
        for reply, kind in (
            ("451 4.3.0 disk", Delayed),
            ("554 5.6.0 spam", Failed),
            ("554 4.9.9 lie", Failed),
        ):
            self.peer(dot=reply)
            assert await self.kinds(entry("x@b.test")) == [kind]

    async def test_large_content_streams(self) -> None:
        path = scratch_path(self)
        octets = b"".join(b".%d\r\n" % n for n in range(400_000))
        path.write_bytes(octets)
        peer = self.peer()
        outcome = await self.one(entry("x@b.test", content=FileContent(path, len(octets))))
        assert isinstance(outcome, Relayed)
        assert peer.messages == [octets.replace(b"\r\n.", b"\r\n..").replace(b".", b"..", 1)]

    async def test_content_that_vanishes_is_never_ended_by_a_dot(self) -> None:
        for size in (10, 10_000_000):
            peer = self.peer()
            content = FileContent(scratch_path(self), size)
            assert await self.kinds(entry("x@b.test", content=content)) == [Delayed]
            assert peer.messages == []
        self.flushLoggedErrors()


class NeedsTests(AgentCase):
    async def test_size(self) -> None:
        peer = self.peer(EHLO="250-peer\r\n250 SIZE 10")
        outcome = await self.one()
        assert isinstance(outcome, Failed)
        assert outcome.status == "5.3.4"
        assert peer.said("MAIL") == []

    async def test_eight_bits_only_when_there_are_any(self) -> None:
        self.peer(EHLO="250-peer\r\n250 PIPELINING")
        eight = MemoryContent("Subject: ü\r\n".encode())
        outcome = await self.one(entry("x@b.test", content=eight, body="8BITMIME"))
        assert (type(outcome), outcome.status) == (Failed, "5.6.3")
        assert isinstance(await self.one(entry("x@b.test", body="8BITMIME")), Relayed)

    async def test_smtputf8(self) -> None:
        peer = self.peer(EHLO="250-peer\r\n250-PIPELINING\r\n250 8BITMIME")
        outcomes = await self.attempt(entry("юлія@b.test", "x@b.test"))
        assert [type(o) for o in outcomes] == [Failed, Relayed]
        assert outcomes[0].status == "5.6.7"
        header = MemoryContent("Subject: привіт\r\n\r\nhello\r\n".encode())
        outcome = await self.one(entry("x@b.test", smtputf8=True, content=header))
        assert outcome.status == "5.6.7"
        outcome = await self.one(entry("x@b.test", reverse_path=Address("юлія", "a.test")))
        assert outcome.status == "5.6.7"
        assert len(peer.messages) == 1

    async def test_smtputf8_that_a_client_says_of_every_message_costs_none(self) -> None:
        body = MemoryContent("Subject: x\r\n\r\nпривіт\r\n".encode())
        for offer in ("250-peer\r\n250 8BITMIME", EHLO):
            peer = self.peer(EHLO=offer)
            for content in (body, MemoryContent(b"Subject: x\r\n"), None):
                message = entry("x@b.test", smtputf8=True, content=content)
                assert isinstance(await self.one(message), Relayed)
            assert not [said for said in peer.said("MAIL") if "SMTPUTF8" in said]
            international = entry("юлія@b.test", smtputf8=True)
            assert isinstance(await self.one(international), Relayed if offer is EHLO else Failed)

    async def test_addresses_that_cannot_be_said(self) -> None:
        peer = self.peer()
        outcomes = await self.attempt(entry("x\r\nRSET@b.test", "y@b.test"))
        assert [type(o) for o in outcomes] == [Failed, Relayed]
        bad = entry("y@b.test", reverse_path=Address("a", "b\r\nDATA"))
        assert (await self.one(bad)).status == "5.1.7"
        assert peer.said("RSET") == []


class LookupTests(AgentCase):
    async def test_nowhere_to_go(self) -> None:
        for error, kind, status in (
            (NoSuchDomain("no b.test"), Failed, "5.1.2"),
            (NullMX("null"), Failed, "5.1.10"),
            (LoopsBack("loop"), Failed, "5.4.6"),
            (LookupDelayed("dns"), Delayed, "4.4.3"),
        ):
            self.hosts["b.test"] = error
            outcome = await self.one()
            assert (type(outcome), outcome.status) == (kind, status)

    async def test_one_bad_domain_does_not_hold_up_the_others(self) -> None:
        self.peer()
        self.hosts["gone.test"] = NoSuchDomain("gone")
        assert await self.kinds(entry("x@gone.test", "y@b.test")) == [Failed, Relayed]

    async def test_a_bug_is_a_delay_for_its_recipients_alone(self) -> None:
        self.peer()
        self.hosts["bug.test"] = ZeroDivisionError("bug")
        outcomes = await self.attempt(entry("x@bug.test", "y@b.test"))
        assert [type(o) for o in outcomes] == [Delayed, Relayed]
        assert outcomes[0].status == "4.3.0"
        self.hosts["b.test"] = [Exchange("mx.b.test", 25, None)]  # type: ignore[arg-type]
        assert (await self.one()).status == "4.3.0"
        assert self.agent.destinations.busy == 0
        self.flushLoggedErrors()


class TroubleTests(AgentCase):
    def before(self, peer: Peer, *others: Exchange) -> None:
        """``others`` are tried before ``peer``."""
        self.hosts["b.test"] = [*others, *self.hosts["b.test"]]

    async def test_refused_then_the_next_address_and_the_next_host(self) -> None:
        peer = self.peer()
        dead = self.dead_port()
        self.before(peer, Exchange("dead.b.test", dead, ("127.0.0.1", "::1")))
        outcome = await self.one()
        assert isinstance(outcome, Relayed)
        assert outcome.remote_mta == "mx.b.test"

    async def test_nobody_there(self) -> None:
        dead = self.dead_port()
        self.hosts["b.test"] = [Exchange("mx.b.test", dead, ("127.0.0.1",))]
        outcome = await self.one()
        assert (type(outcome), outcome.status) == (Delayed, "4.4.1")
        assert outcome.diagnostic == f"connect to mx.b.test[127.0.0.1]:{dead}: Connection refused"
        assert outcome.remote_mta == ""

    async def test_behind_hosts_that_are_known_to_be_dead_another_is_tried(self) -> None:
        peer = self.peer()
        dead = [Exchange(f"mx{n}.b.test", self.dead_port(), ("127.0.0.1",)) for n in range(7)]
        self.hosts["b.test"] = [*dead, *self.hosts["b.test"]]
        assert isinstance(await self.one(), Delayed)  # five of them are enough for one attempt
        assert peer.connections == 0
        assert isinstance(await self.one(), Relayed)
        assert peer.connections == 1

    async def test_a_greeting_that_refuses(self) -> None:
        good = self.peer()
        for reply in ("421 4.3.2 busy", "554 5.7.1 go away", "garbage", DROP):
            bad = Peer(connect=reply)
            self.addCleanup(lambda bad=bad: Deferred.fromCoroutine(bad.stop()))
            exchange = Exchange("bad.test", bad.start(), ("127.0.0.1",))
            self.hosts["c.test"] = [exchange, *self.hosts["b.test"]]
            assert await self.kinds(entry("x@c.test")) == [Relayed]
        assert len(good.messages) == 4

    async def test_5yz_at_every_door_fails_and_4yz_at_one_delays(self) -> None:
        self.peer("no1.test", connect="554 5.7.1 go away")
        self.peer("no2.test", EHLO="550 5.7.1 not you", HELO="550 5.7.1 not you")
        self.peer("busy.test", connect="421 busy")
        no1, no2, busy = (self.hosts[f"{name}.test"] for name in ("no1", "no2", "busy"))
        self.hosts["b.test"] = no1 + no2
        outcome = await self.one()
        assert (type(outcome), outcome.status) == (Failed, "5.7.1")
        self.peer("no3.test", connect="554 5.7.1 go away")
        self.hosts["c.test"] = busy + self.hosts["no3.test"]
        outcome = await self.one(entry("x@c.test"))
        assert (type(outcome), outcome.diagnostic) == (Delayed, "554 5.7.1 go away")

    async def test_a_drop_before_the_content_goes_on_elsewhere(self) -> None:
        for verb in ("EHLO", "MAIL", "RCPT", "DATA"):
            self.peer("bad.test", **{verb: DROP})
            good = self.peer("good.test")
            self.hosts["b.test"] = self.hosts["bad.test"] + self.hosts["good.test"]
            assert await self.kinds(entry("x@b.test", "y@b.test")) == [Relayed, Relayed], verb
            assert len(good.messages) == 1

    async def test_what_was_refused_before_the_drop_stays_refused(self) -> None:
        self.peer(RCPT=lambda line: "550 no" if "<x@" in line else DROP)
        assert await self.kinds(entry("x@b.test", "y@b.test")) == [Failed, Delayed]

    async def test_a_drop_after_the_dot_delays_and_goes_nowhere_else(self) -> None:
        self.peer("bad.test", dot=DROP)
        good = self.peer("good.test")
        self.hosts["b.test"] = self.hosts["bad.test"] + self.hosts["good.test"]
        outcome = await self.one()
        assert (type(outcome), outcome.status) == (Delayed, "4.4.2")
        assert "the end of data" in outcome.diagnostic
        assert good.messages == []

    async def test_421_anywhere(self) -> None:
        for verb in ("EHLO", "MAIL", "RCPT", "DATA", "."):
            peer = self.peer()
            peer.replies[verb] = "421 4.3.2 closing"
            outcome = await self.one()
            assert (type(outcome), outcome.diagnostic) == (Delayed, "421 4.3.2 closing"), verb

    async def test_an_endless_reply(self) -> None:
        for verb in ("CONNECT", "EHLO", "MAIL", "."):
            peer = self.peer()
            peer.replies[verb] = "250-x\r\n" * 200_000
            assert await self.kinds(entry("x@b.test")) == [Delayed], verb
            peer = self.peer()
            peer.replies[verb] = "2" * 1_000_000
            assert await self.kinds(entry("x@b.test")) == [Delayed], verb

    async def test_lies_in_ehlo(self) -> None:
        # PIPELINING offered, and then everything that was sent ahead is lost.
        class OneAtATime(PeerSession):
            def dataReceived(self, data: bytes) -> None:
                super().dataReceived(data if self.in_data else data.split(b"\r\n")[0] + b"\r\n")

        peer = Peer(RCPT="250 ok")
        peer.protocol = OneAtATime
        self.addCleanup(lambda: Deferred.fromCoroutine(peer.stop()))
        self.hosts["b.test"] = [Exchange("mx.b.test", peer.start(), ("127.0.0.1",))]
        waiting = self.agent.attempt(entry("x@b.test"), [entry("x@b.test").waiting[0].recipient])
        await deferLater(reactor, 0.2, lambda: None)
        assert not waiting.called
        (session,) = self.agent.dialler.sessions
        session._deadline.move(0)  # five minutes have passed
        (outcome,) = await waiting
        assert isinstance(outcome, Delayed)

    async def test_an_early_yes_is_not_believed(self) -> None:
        self.peer(DATA="354 go\r\n250 2.0.0 all yours")
        assert await self.kinds(entry("x@b.test")) == [Delayed]


class ReuseTests(AgentCase):
    async def test_an_open_session_serves_the_next_message(self) -> None:
        peer = self.peer()
        for _ in range(3):
            assert isinstance(await self.one(), Relayed)
        assert peer.connections == 1
        assert len(peer.messages) == 3
        assert peer.said("RSET") == []

    async def test_rset_goes_before_the_mail_of_a_session_that_was_idle(self) -> None:
        self.patch(destinations, "PROBE_SECONDS", 0.0)
        for offer in (EHLO, EHLO.replace("250-PIPELINING\r\n", "")):
            peer = self.peer(EHLO=offer)
            for _ in range(3):
                assert isinstance(await self.one(), Relayed)
            assert peer.connections == 1
            said = [c[:4] for c in peer.commands if c[:4] in ("RSET", "MAIL")]
            assert said == ["MAIL", "RSET", "MAIL", "RSET", "MAIL"]
            # A refusal, or silence, is the session's and not the destination's.
            for reply in ("421 4.4.2 idle too long", "502 5.5.1 what", DROP):
                peer.replies["RSET"] = reply
                connections = peer.connections
                assert isinstance(await self.one(), Relayed), reply
                assert peer.connections == connections + 1

    async def test_rset_after_a_transaction_that_nobody_wanted(self) -> None:
        peer = self.peer(RCPT="550 no", DATA="503 nobody")
        await self.one()
        await self.one()
        assert peer.connections == 1
        assert [c for c in peer.commands if c[:4] in ("RSET", "MAIL")][1] == "RSET"

    async def test_a_kept_session_that_has_died_is_replaced(self) -> None:
        peer = self.peer()
        await self.one()
        # The peer is about to close; we have not noticed.
        peer.replies["MAIL"] = lambda line: DROP if peer.connections == 1 else "250 ok"
        assert isinstance(await self.one(), Relayed)
        assert peer.connections == 2

    async def test_the_end_of_a_kept_session_does_not_soften_a_refusal(self) -> None:
        peer = self.peer()
        await self.one()
        peer.replies |= {"MAIL": DROP, "CONNECT": "554 5.7.1 go away"}
        outcome = await self.one()
        assert (type(outcome), outcome.diagnostic) == (Failed, "554 5.7.1 go away")

    async def test_idle_sessions_are_closed_after_a_while_with_quit(self) -> None:
        peer = self.peer()
        await self.one()
        self.agent.destinations.close()
        while peer.open:
            await deferLater(reactor, 0.01, lambda: None)
        assert peer.commands[-1] == "QUIT"

    async def test_no_more_sessions_than_allowed(self) -> None:
        self.agent = RelayAgent(reactor, Exchanges(self.hosts), "mx.a.test", Pace(2))
        peer = self.peer()
        most = 0

        def mail(line: str) -> str:
            nonlocal most
            most = max(most, len(peer.open))
            return "250 ok"

        peer.replies["MAIL"] = mail
        attempts = [self.attempt(entry("x@b.test")) for _ in range(40)]
        found = await gatherResults([Deferred.fromCoroutine(a) for a in attempts])
        assert {type(o) for (o,) in found} == {Relayed}
        assert most == 2
        assert len(peer.messages) == 40

    async def test_a_thousand_messages_to_a_dead_host_at_once(self) -> None:
        self.hosts["b.test"] = [Exchange("mx.b.test", self.dead_port(), ("127.0.0.1",))]
        attempts = [Deferred.fromCoroutine(self.attempt(entry("x@b.test"))) for _ in range(1000)]
        assert {type(o) for (o,) in await gatherResults(attempts)} == {Delayed}
        assert self.agent.destinations.busy == 0


class StopTests(AgentCase):
    async def test_a_transaction_may_finish_and_new_ones_wait(self) -> None:
        peer = self.peer()
        peer.replies["."] = "silent"
        waiting = Deferred.fromCoroutine(self.one())
        while not peer.messages:
            await deferLater(reactor, 0.01, lambda: None)
        stopping = self.agent.stop()
        late = await self.one()
        assert (type(late), late.status) == (Delayed, "4.3.2")
        assert not stopping.called
        peer.open[0].transport.write(b"250 ok\r\n")
        assert isinstance(await waiting, Relayed)
        await stopping
        assert peer.commands[-1] == "QUIT"

    async def test_a_server_that_has_not_said_anything_is_not_waited_for(self) -> None:
        peer = self.peer()
        peer.replies["CONNECT"] = "silent"
        waiting = Deferred.fromCoroutine(self.one())
        while not peer.open:
            await deferLater(reactor, 0.01, lambda: None)
        self.patch(relay_agent, "DRAIN_SECONDS", 1000.0)
        await self.agent.stop()
        outcome = await waiting
        assert (type(outcome), outcome.status) == (Delayed, STOPPING)

    async def test_who_waits_for_a_paced_destination_is_told_of_the_stop(self) -> None:
        self.peer()
        self.agent = RelayAgent(reactor, Exchanges(self.hosts), "mx.a.test", Pace(20, per_minute=1))
        assert isinstance(await self.one(), Relayed)
        waiting = Deferred.fromCoroutine(self.one())
        await deferLater(reactor, 0.05, lambda: None)
        assert not waiting.called
        await self.agent.stop()
        outcome = await waiting
        assert (type(outcome), outcome.status) == (Delayed, STOPPING)


class LogTests(AgentCase):
    async def test_nothing_unusual_is_logged(self) -> None:
        self.peer()
        seen: list[Any] = []
        log.addObserver(seen.append)
        self.addCleanup(log.removeObserver, seen.append)
        await self.one()
        assert [e for e in seen if e.get("isError")] == []
        assert EHLO


class MannersTests(AgentCase):
    async def test_a_4yz_to_mail_asks_the_next_exchange(self) -> None:
        busy = Peer(MAIL="451 4.3.2 too busy")
        self.addCleanup(lambda: Deferred.fromCoroutine(busy.stop()))
        peer = self.peer()
        self.hosts["b.test"].insert(0, Exchange("busy.b.test", busy.start(), ("127.0.0.1",)))
        outcome = await self.one()
        assert isinstance(outcome, Relayed)
        assert outcome.relay.startswith("mx.b.test")
        assert outcome.facts is not None
        assert [a.host for a in outcome.facts.attempts] == ["busy.b.test", "mx.b.test"]
        assert len(peer.messages) == 1
        # Where there is no other, it is the answer.
        self.hosts["b.test"] = self.hosts["b.test"][:1]
        outcome = await self.one()
        assert (type(outcome), outcome.status) == (Delayed, "4.3.2")
        assert outcome.diagnostic == "451 4.3.2 too busy"

    async def test_limits_that_the_server_announces(self) -> None:
        peer = self.peer(EHLO="250-peer\r\n250-PIPELINING\r\n250 LIMITS MAILMAX=2 RCPTMAX=3 RCPTDOMAINMAX=1")
        self.hosts["c.test"] = self.hosts["b.test"]
        message = entry(*[f"u{n}@b.test" for n in range(5)], "v@c.test")
        assert set(await self.kinds(message)) == {Relayed}
        assert [len(group) for group in _grouped(peer.commands)] == [3, 2, 1]
        assert peer.connections == 2

    async def test_chunking(self) -> None:
        class Chunky(PeerSession):
            def lineReceived(self, line: bytes) -> None:
                if line.startswith(b"BDAT"):
                    self.peer.commands.append(line.decode())
                    self.left = int(line.split()[1])
                    self.taken: list[bytes] = []
                    self.setRawMode()
                else:
                    super().lineReceived(line)

            def rawDataReceived(self, data: bytes) -> None:
                self.taken.append(data[: self.left])
                rest, self.left = data[self.left :], self.left - len(self.taken[-1])
                if not self.left:
                    self.peer.messages.append(b"".join(self.taken))
                    self.setLineMode(rest)
                    self.answer(".", "")

        offer = "250-peer\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 CHUNKING"
        peer = self.peer(EHLO=offer, RCPT=lambda line: "550 5.1.1 no" if "<no@" in line else "250 ok")
        peer.listening.factory.protocol = Chunky
        large = b"".join(b".%d\r\n" % n for n in range(300_000))
        path = scratch_path(self)
        path.write_bytes(large)
        assert await self.kinds(entry("x@b.test", "no@b.test")) == [Relayed, Failed]
        assert await self.kinds(entry("x@b.test", content=FileContent(path, len(large)))) == [Relayed]
        assert await self.kinds(entry("no@b.test")) == [Failed]
        assert await self.kinds(entry("x@b.test")) == [Relayed]
        assert peer.messages == [BODY, large, BODY]
        assert peer.said("DATA") == []
        assert len(peer.said("RSET")) == 1
        # A content that is shorter than it was is cut off, never completed by our next command.
        short = entry("x@b.test", content=FileContent(path, len(large) + 5))
        assert await self.kinds(short) == [Delayed]
        assert len(peer.messages) == 3

    async def test_a_priority_goes_in_the_envelope_or_in_the_header(self) -> None:
        offer = EHLO.replace("250 SIZE", "250-SIZE")
        for keyword, field in (("MT-PRIORITY", b""), ("X-NOTHING", b"MT-Priority: 4\r\n")):
            peer = self.peer(EHLO=f"{offer}\r\n250 {keyword}")
            assert isinstance(await self.one(entry("x@b.test", priority=4)), Relayed)
            assert peer.messages == [field + b"Subject: x\r\n\r\n..dot\r\n"]
            assert ("MT-PRIORITY=4" in peer.said("MAIL")[0]) is not bool(field)

    async def test_content_is_re_encoded_for_a_server_without_8bitmime(self) -> None:
        peer = self.peer(EHLO="250-peer\r\n250 PIPELINING")
        eight = MemoryContent("Subject: x\r\nMIME-Version: 1.0\r\n\r\nü\r\n".encode())
        outcome = await self.one(entry("x@b.test", content=eight, body="8BITMIME"))
        assert isinstance(outcome, Relayed)
        assert b"=C3=BC" in peer.messages[0]
        signed = MemoryContent(b"DKIM-Signature: x\r\n" + b"".join(eight.chunks()))
        outcome = await self.one(entry("x@b.test", content=signed, body="8BITMIME"))
        assert (type(outcome), outcome.status) == (Failed, "5.6.3")
        assert "signed" in outcome.diagnostic

    async def test_turned_away_at_the_door_because_of_ourselves_is_no_delay(self) -> None:
        """421 to the third session while two of ours are inside: it waits for a place and goes then."""
        peer = self.peer()
        peer.replies["CONNECT"] = lambda _: "220 hi" if len(peer.open) <= 2 else "421 4.7.0 too many"
        peer.replies["."] = lambda _: "250 ok"
        results = await gatherResults(
            [self.agent.attempt(m, m.envelope.recipients) for m in [entry("x@b.test") for _ in range(8)]]
        )
        assert {type(o) for outcomes in results for o in outcomes} == {Relayed}
        assert len(peer.messages) == 8

    async def test_a_dead_destination_costs_no_attempts(self) -> None:
        peer = self.peer(connect="421 4.3.2 down")
        key = (await self.agent.next_hops.hop(entry("x@b.test").envelope, "b.test")).key
        for _ in range(40):
            assert isinstance(await self.one(), Delayed)
            self.agent.dialler.memory.worked(Target("mx.b.test", "127.0.0.1", key.hosts[0][1]))
        assert peer.connections < 10
        described = self.agent.destinations.describe(key)
        assert described is not None
        assert "421" in described["dead"]

    async def test_a_recipients_4yz_is_no_news_of_the_destination(self) -> None:
        self.peer(RCPT="450 4.2.1 greylisted")
        for _ in range(10):
            await self.one()
        (key,) = self.agent.destinations.keys()
        described = self.agent.destinations.describe(key)
        assert described is not None
        assert (described["window"], described["dead"]) == (6, "")

    async def test_a_policy_4yz_slows_down(self) -> None:
        self.peer(MAIL="450 4.7.1 come more slowly")
        await self.one()
        (key,) = self.agent.destinations.keys()
        described = self.agent.destinations.describe(key)
        assert described is not None
        assert described["window"] == 4

    async def test_a_policy_4yz_to_one_recipient_of_several_is_about_that_recipient(self) -> None:
        self.peer(RCPT=lambda line: "450 4.7.1 greylisted" if "<new@" in line else "250 ok")
        for _ in range(10):
            assert await self.kinds(entry("new@b.test", "x@b.test")) == [Delayed, Relayed]
        assert self.described()["window"] == 6

    async def test_421_and_a_cut_session_slow_down(self) -> None:
        peer = self.peer(MAIL="421 4.3.2 going down")
        await self.one()
        assert self.described()["window"] == 4
        peer.replies["MAIL"] = DROP
        await self.one()
        assert self.described()["failures"] > 0.4  # two of five: not dead, and not far from it
        peer.replies["MAIL"] = "250 ok"
        assert isinstance(await self.one(), Relayed)
        assert self.described()["failures"] == 0

    async def test_a_session_is_reused_by_time_and_not_by_count(self) -> None:
        peer = self.peer()
        for _ in range(150):
            assert isinstance(await self.one(), Relayed)
        assert peer.connections == 1
        (session,) = self.agent.dialler.sessions
        session.started -= 301  # five minutes later
        await self.one()
        await self.pause()
        assert peer.commands[-1] == "QUIT"
        assert isinstance(await self.one(), Relayed)
        assert peer.connections == 2

    def described(self) -> dict[str, Any]:
        """What is known of the one destination."""
        (key,) = self.agent.destinations.keys()
        described = self.agent.destinations.describe(key)
        assert described is not None
        failures = self.agent.destinations._known[key].window.fail_cohorts
        return {**described, "failures": failures}

    async def test_what_was_looked_up_has_its_time_in_the_first_attempt_alone(self) -> None:
        self.peer(RCPT="450 4.2.1 later")
        known = self.agent.next_hops.find
        found = known(entry("x@b.test").envelope, "b.test", 0)

        def slowly(*asked: Any) -> Any:
            return deferLater(reactor, 0.2, lambda: found)

        self.agent.next_hops.find = slowly  # type: ignore[method-assign]
        outcome = await self.one()
        assert outcome.facts is not None
        (attempt,) = outcome.facts.attempts
        assert 0.2 <= attempt.fields()["phases"]["dns"] < 5
        assert attempt.connected <= outcome.facts.setup - attempt.looked + 0.001
        self.agent.next_hops.find = known  # type: ignore[method-assign]
        outcome = await self.one()
        assert outcome.facts is not None
        assert outcome.facts.attempts[0].looked < 0.1

    async def test_the_attempt_is_kept(self) -> None:
        peer = self.peer(RCPT="450 4.2.1 later")
        outcome = await self.one()
        assert outcome.facts is not None
        (attempt,) = outcome.facts.attempts
        assert (attempt.host, attempt.address, attempt.port) == (
            "mx.b.test",
            "127.0.0.1",
            peer.listening.getHost().port,
        )
        assert [(step.stage, step.text) for step in attempt.steps][:2] == [
            ("the greeting", "220 peer.test ESMTP"),
            ("EHLO", "250 peer.test PIPELINING 8BITMIME SMTPUTF8 DSN SIZE 60000000"),
        ]
        assert ("RCPT TO", "450 4.2.1 later") in [(step.stage, step.text) for step in attempt.steps]
        assert abs(attempt.at - time.time()) < 5
        assert 0 <= attempt.connected <= attempt.opened <= attempt.finished
        outcome = await self.one()
        assert outcome.facts is not None
        assert outcome.facts.uses == 2


def _grouped(commands: list[str]) -> list[list[str]]:
    groups: list[list[str]] = []
    for command in commands:
        if command.startswith("MAIL"):
            groups.append([])
        elif command.startswith("RCPT"):
            groups[-1].append(command)
    return groups


class Watching:
    """Demands that demand nothing and note who was observed."""

    def __init__(self) -> None:
        self.seen: list[tuple[set[str], str]] = []

    def demands(self, domain: str, exchanges: Sequence[Exchange], envelope: Envelope) -> Sequence[Security]:
        return [OPPORTUNISTIC] * len(exchanges)

    def observed(self, domains: set[str], security: Security, *more: object) -> None:
        self.seen.append((domains, security.domain))

    def refused(self, security: Security, host: str, address: str) -> None:
        pass


class RouteTests(AgentCase):
    async def test_tls_reports_hear_of_routes_that_leave_the_host_to_the_domain(self) -> None:
        """A route that only asks for TLS leads to the domain's own exchanges, which want to know; the next
        hop that an administrator names is nobody else's affair."""
        table = RouteTable({"b.test": RouteSettings(tls="encrypted")})
        hops = NextHops(Exchanges(self.hosts), table, Watching())
        self.hosts["b.test"] = [Exchange("mx.b.test", 25, ("127.0.0.1",))]
        hop = await hops.hop(entry("x@b.test").envelope, "b.test")
        assert [(s.level, s.domain) for s in hop.securities] == [(Level.ENCRYPTED, "b.test")]
        watching = Watching()
        self.agent = RelayAgent(reactor, Exchanges(self.hosts), "mx.a.test", routes=table, demands=watching)
        peer = self.peer()
        assert isinstance(await self.one(), Delayed)
        assert watching.seen == [({"b.test"}, "b.test")]
        assert peer.said("MAIL") == []

    def routed(self, **more: Any) -> RelayAgent:
        """Everything goes by one route, with ``more`` in its table."""

        class Hops(Exchanges):
            def next_hop(self, host: str, port: int) -> Deferred[Sequence[Exchange]]:
                return succeed([Exchange(host, port, ("127.0.0.1",))])

        table = RouteTable({"*": RouteSettings(**more)})
        self.agent = RelayAgent(reactor, Hops(self.hosts), "mx.a.test", routes=table)
        return self.agent

    async def test_a_password_goes_to_a_smarthost(self) -> None:
        password = scratch_path(self)
        peer = self.peer(EHLO="250-smart\r\n250-PIPELINING\r\n250 AUTH PLAIN LOGIN", AUTH="235 2.7.0 hello")
        port = peer.listening.getHost().port
        self.routed(
            host="localhost", port=port, tls="none", user="ada", password_file=password, ehlo="out.a.test"
        )
        outcome = await self.one()
        assert (type(outcome), outcome.status) == (Delayed, "4.7.8")
        assert "No such file" in outcome.diagnostic
        assert peer.connections == 0
        password.write_text("secret\n")
        assert isinstance(await self.one(), Relayed)
        assert peer.commands[0] == "EHLO out.a.test"
        assert peer.said("AUTH") == ["AUTH PLAIN " + b64encode(b"\0ada\0secret").decode()]
        peer.replies["AUTH"] = "535 5.7.8 wrong"
        self.agent.destinations.close()
        await self.pause()
        outcome = await self.one()
        # A wrong password of ours is no reason to return mail.
        assert (type(outcome), outcome.status) == (Delayed, "4.7.8")
        self.flushLoggedErrors()

    async def test_required_tls_goes_nowhere_without(self) -> None:
        peer = self.peer()
        port = peer.listening.getHost().port
        for tls in ("encrypted", "required"):
            self.routed(host="localhost", port=port, tls=tls)
            outcome = await self.one()
            assert isinstance(outcome, Delayed)
            assert "STARTTLS" in outcome.diagnostic
        assert peer.said("MAIL") == []

    async def test_a_fallback_after_the_first_attempt(self) -> None:
        self.peer(connect="421 down")
        smart = self.peer("smart.test")
        self.routed(host="localhost", port=smart.listening.getHost().port, after=1)
        message = entry("x@b.test")
        assert await self.kinds(message) == [Delayed]
        later = replace(message, waiting=tuple(replace(w, attempts=1) for w in message.waiting))
        assert await self.kinds(later) == [Relayed]
        assert len(smart.messages) == 1

    async def test_the_source_address(self) -> None:
        peer = self.peer()
        self.routed(host="localhost", port=peer.listening.getHost().port, source=("127.0.0.3",))
        hosts: list[str] = []
        peer.replies["MAIL"] = lambda _: hosts.append(peer.open[-1].transport.getPeer().host) or "250 ok"
        assert isinstance(await self.one(), Relayed)
        assert hosts == ["127.0.0.3"]


class KnowingTests(AgentCase):
    async def test_why_mail_waits(self) -> None:
        peer = self.peer(RCPT="450 4.2.1 later")
        knowing = Knowing(reactor, self.agent, "mx.a.test")
        await self.one()
        told = await knowing.why({"domain": "B.test"})
        assert told["destination"]["window"] == 5
        assert told["hosts"][0]["host"] == f"mx.b.test[127.0.0.1]:{peer.listening.getHost().port}"
        assert ["RCPT TO", "450 4.2.1 later"] in [step[1:] for step in told["last"]["steps"]]
        self.hosts["gone.test"] = LookupDelayed("no name server answered")
        assert (await knowing.why({"domain": "gone.test"}))["trouble"] == "no name server answered"
        json.dumps(told)

    async def test_a_walk_asks_and_sends_nothing(self) -> None:
        peer = self.peer(RCPT=lambda line: "550 5.1.1 no" if "<no@" in line else "250 ok")
        knowing = Knowing(reactor, self.agent, "mx.a.test")
        stages = await knowing.route({"address": "x@b.test", "sender": "ada@a.test"})
        assert [stage["stage"] for stage in stages] == [
            "look-up",
            "policy",
            "connect",
            "the greeting",
            "EHLO",
            "MAIL FROM",
            "RCPT TO",
        ]
        assert all(stage["ok"] for stage in stages)
        assert peer.messages == []
        assert peer.said("DATA") == []
        assert peer.said("MAIL") == ["MAIL FROM:<ada@a.test> SIZE=0"]
        stages = await knowing.route({"address": "no@b.test"})
        assert not stages[-1]["ok"]
        assert stages[-1]["told"] == "550 5.1.1 no"
        self.hosts["b.test"] = [
            Exchange("dead.test", self.dead_port(), ("127.0.0.1",)),
            *self.hosts["b.test"],
        ]
        stages = await knowing.route({"address": "x@b.test"})
        assert [stage["ok"] for stage in stages if stage["stage"] == "connect"] == [False, True]
        with pytest.raises(ValueError, match="address"):
            await knowing.route({"address": "nobody"})
