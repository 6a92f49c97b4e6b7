"""One session on a Clock and a StringTransport: time limits, streaming, and what is never sent."""

from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.error import ConnectionDone, ConnectionRefusedError, TimeoutError
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from mailserver.relay import sessions
from mailserver.relay.opening import open_session
from mailserver.relay.sessions import Manner, Target
from mailserver.relay.smtp import SMTPSession
from mailserver.values.address import Address
from mailserver.values.content import MemoryContent
from mailserver.values.envelope import Envelope, Recipient
from mailserver.wire.client_events import SessionEnded, Stage, TransactionDone

TARGET = Target("mx.b.test", "192.0.2.1", 25)
TO = (Recipient(0, Address("x", "b.test"), Address("x", "b.test")),)
MAIL = Envelope(Address("ada", "a.test"), TO)
PIPELINING = b"250-mx\r\n250 PIPELINING\r\n"


class Transport(StringTransport):
    """Remembers how it was closed, and that Nagle was turned off."""

    aborted = no_delay = False

    def abortConnection(self) -> None:
        self.aborted = True

    def setTcpNoDelay(self, enabled: bool) -> None:
        self.no_delay = enabled


class Large:
    """Content of ``count`` pieces that counts how many were asked for."""

    def __init__(self, count: int, fault: bool = False) -> None:
        self.size = count * 65536
        self.count, self.fault, self.read = count, fault, 0

    def chunks(self) -> Iterator[bytes]:
        for _ in range(self.count):
            self.read += 1
            yield b"x" * 65534 + b"\r\n"
        if self.fault:
            raise OSError(5, "Input/output error")


class World:
    def __init__(self) -> None:
        self.clock = MemoryReactorClock()
        self.session = open_session(self.clock, Manner("mx.a.test"), TARGET, None)
        self.transport = Transport()
        self.said: list[Any] = []
        self.session.opened.addCallback(self.said.append)

    def connect(self) -> "World":
        host, port, factory, timeout, _ = self.clock.tcpClients[0]
        assert (host, port, timeout) == ("192.0.2.1", 25, sessions.CONNECT_SECONDS)
        factory.buildProtocol(None).makeConnection(self.transport)
        return self

    def ready(self, ehlo: bytes = PIPELINING) -> "World":
        self.connect().hear(b"220 mx\r\n", ehlo)
        assert self.said == [self.session]
        self.transport.clear()
        return self

    def hear(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.session.dataReceived(piece)

    def send(self, content: Any = None) -> list[Any]:
        done: list[Any] = []
        self.session.send(MAIL, TO, content or MemoryContent(b".x\r\n")).addCallback(done.append)
        return done

    def stall(self, seconds: float, done: list[Any], stage: Stage) -> None:
        """Nothing happens until ``seconds`` are over, then the session ends."""
        self.clock.advance(seconds - 1)
        assert not isinstance(done[-1:] and done[-1], SessionEnded)
        self.clock.advance(2)
        assert isinstance(done[-1], SessionEnded)
        assert done[-1].stage is stage
        assert self.transport.aborted


def test_a_message_is_three_writes() -> None:
    world = World().ready()
    done = world.send()
    assert world.transport.no_delay
    assert world.transport.io.getvalue() == b"MAIL FROM:<ada@a.test>\r\nRCPT TO:<x@b.test>\r\nDATA\r\n"
    world.transport.clear()
    world.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    assert world.transport.value() == b"..x\r\n.\r\n"
    assert not world.session.usable
    world.hear(b"250 ok\r\n")
    assert isinstance(done[0], TransactionDone)
    assert world.session.usable
    # Idle, the old time limit runs out without harm.
    world.clock.advance(sessions.END_SECONDS + 1)
    assert world.session.usable
    assert not world.transport.aborted


@pytest.mark.parametrize(
    ("heard", "seconds", "stage"),
    [
        ([], sessions.GREETING_SECONDS, Stage.GREETING),
        ([b"220-x\r\n"], sessions.GREETING_SECONDS, Stage.GREETING),
        ([b"220 x\r\n"], sessions.EHLO_SECONDS, Stage.EHLO),
        ([b"220 x\r\n", b"500 x\r\n"], sessions.EHLO_SECONDS, Stage.HELO),
    ],
)
def test_a_stall_before_the_session_is_open(heard: list[bytes], seconds: float, stage: Stage) -> None:
    world = World().connect()
    world.hear(*heard)
    world.stall(seconds, world.said, stage)


@pytest.mark.parametrize(
    ("heard", "seconds", "stage"),
    [
        (b"", sessions.MAIL_SECONDS, Stage.MAIL),
        (b"250 ok\r\n", sessions.RCPT_SECONDS, Stage.RCPT),
        (b"250 ok\r\n250 ok\r\n", sessions.DATA_SECONDS, Stage.DATA),
        (b"250 ok\r\n250 ok\r\n354 go\r\n", sessions.END_SECONDS, Stage.END),
    ],
)
def test_a_stall_in_a_transaction(heard: bytes, seconds: float, stage: Stage) -> None:
    world = World().ready()
    done = world.send()
    world.hear(heard)
    world.stall(seconds, done, stage)


def test_a_trickle_of_octets_does_not_extend_the_time() -> None:
    world = World().connect()
    world.hear(b"220-")
    for _ in range(int(sessions.GREETING_SECONDS) + 1):
        world.hear(b"x")
        world.clock.advance(1)
    assert isinstance(world.said[0], SessionEnded)
    assert world.said[0].stage is Stage.GREETING


def test_replies_cannot_stretch_a_transaction_for_ever() -> None:
    world = World().ready()
    many = tuple(Recipient(n, TO[0].address, TO[0].address) for n in range(100))
    done: list[Any] = []
    world.session.send(Envelope(MAIL.reverse_path, many), many, MemoryContent(b"")).addCallback(done.append)
    while not done and world.clock.seconds() < 100 * sessions.RCPT_SECONDS:
        world.hear(b"250 ok\r\n")
        world.clock.advance(sessions.RCPT_SECONDS - 1)
    assert isinstance(done[0], SessionEnded)
    assert world.clock.seconds() <= sessions.TRANSACTION_SECONDS + sessions.RCPT_SECONDS


def test_large_content_is_read_as_fast_as_it_is_sent() -> None:
    world = World().ready()
    content = Large(10)
    done = world.send(content)
    world.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    producer = world.transport.producer
    assert not world.transport.streaming
    for sent in range(1, 11):
        producer.resumeProducing()
        assert content.read == sent
    producer.resumeProducing()
    assert world.transport.producer is None
    assert world.transport.value().endswith(b"\r\n.\r\n")
    world.hear(b"250 ok\r\n")
    assert isinstance(done[0], TransactionDone)


def test_a_block_that_is_not_taken_ends_the_session() -> None:
    world = World().ready()
    done = world.send(Large(10))
    world.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    world.transport.producer.resumeProducing()
    world.clock.advance(sessions.BLOCK_SECONDS - 1)
    world.transport.producer.resumeProducing()
    world.stall(sessions.BLOCK_SECONDS, done, Stage.CONTENT)


@pytest.mark.parametrize("fault", ["disk", "refusal"])
def test_content_broken_off_is_followed_by_nothing(fault: str) -> None:
    world = World().ready()
    done = world.send(Large(5, fault=fault == "disk"))
    world.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    producer = world.transport.producer
    world.transport.clear()
    if fault == "disk":
        for _ in range(6):
            producer.resumeProducing()
    else:
        producer.resumeProducing()
        world.hear(b"552 5.3.4 too big\r\n")
    assert isinstance(done[0], SessionEnded)
    assert world.transport.aborted
    assert b"QUIT" not in world.transport.value()
    assert b"\r\n.\r\n" not in world.transport.value()


@pytest.mark.parametrize(
    ("error", "words"),
    [(TimeoutError(), "Connection timed out"), (ConnectionRefusedError(111, "x"), "Connection refused")],
)
def test_no_connection(error: Exception, words: str) -> None:
    world = World()
    _, _, factory, _, _ = world.clock.tcpClients[0]
    factory.clientConnectionFailed(None, Failure(error))
    assert world.said[0].stage is Stage.CONNECT
    assert world.said[0].reason == f"connect to mx.b.test[192.0.2.1]:25: {words}"
    assert world.session.gone.called


def test_a_lost_connection_tells_what_was_awaited() -> None:
    world = World().ready()
    done = world.send()
    world.hear(b"250 ok\r\n250 ok\r\n354 go\r\n")
    world.session.connectionLost(Failure(ConnectionDone()))
    assert done[0].stage is Stage.END
    assert "the end of data" in done[0].reason
    assert not world.clock.getDelayedCalls()


def test_a_session_that_ended_says_so() -> None:
    world = World().ready()
    world.hear(b"421 idle too long\r\n")
    assert not world.session.usable
    assert isinstance(world.send()[0], SessionEnded)
    assert world.transport.disconnecting


def test_quit_is_not_waited_for_long() -> None:
    world = World().ready()
    world.session.close()
    assert world.transport.value() == b"QUIT\r\n"
    assert not world.transport.disconnecting
    world.clock.advance(sessions.QUIT_SECONDS + 1)
    assert world.transport.aborted
    polite = World().ready()
    polite.session.close()
    polite.hear(b"221 bye\r\n")
    assert polite.transport.disconnecting


def test_abort_before_there_is_a_connection() -> None:
    world = World()
    world.session.connector = None
    world.session.abort()
    assert isinstance(world.said[0], SessionEnded)


def test_targets_as_the_log_shows_them() -> None:
    assert str(TARGET) == "mx.b.test[192.0.2.1]:25"
    assert str(Target("[192.0.2.1]", "192.0.2.1", 25)) == "[192.0.2.1]:25"
    assert isinstance(World().session, SMTPSession)


# -- one transaction behind another ----------------------------------------------------------------

GO = b"250 ok\r\n250 ok\r\n354 go\r\n"
COMMANDS = b"MAIL FROM:<ada@a.test>\r\nRCPT TO:<x@b.test>\r\nDATA\r\n"


class Followed:
    """A session that has answered one message soon; the content of a second leaves, a third may follow."""

    def __init__(self, answered_after: float = 0.0, ehlo: bytes = PIPELINING) -> None:
        self.world = World().ready(ehlo)
        self.first, self.second, self.third = self.world.send(), [], []  # type: ignore[var-annotated]
        self.world.hear(GO)
        self.world.clock.advance(answered_after)
        self.world.hear(b"250 first\r\n")
        self.session = self.world.session
        content = MemoryContent(b"second\r\n")
        self.session.send(MAIL, TO, content, self._follow).addCallback(self.second.append)
        self.world.transport.clear()
        self.world.hear(GO)

    def _follow(self) -> None:
        followed = self.session.follow(MAIL, TO, MemoryContent(b"third\r\n"))
        followed.addCallback(self.third.append)

    @property
    def written(self) -> bytes:
        octets: bytes = self.world.transport.value()
        self.world.transport.clear()
        return octets


def test_what_follows_leaves_with_the_content_before_it() -> None:
    one = Followed()
    assert one.written == b"second\r\n.\r\n" + COMMANDS
    one.world.hear(b"250 second\r\n" + GO)
    assert isinstance(one.second[0], TransactionDone)
    assert [step.text for step in one.session.attempt(0.0).steps][-1] == "250 second"
    assert one.session.busy
    assert one.written == b"third\r\n.\r\n"
    assert not one.third
    one.world.clock.advance(7)
    one.world.hear(b"250 third\r\n")
    assert one.third[0].replies[0].text == "250 third"
    attempt = one.session.attempt(0.0)
    assert [step.text for step in attempt.steps] == ["250 ok", "250 ok", "354 go", "250 third"]
    assert (attempt.uses, attempt.finished) == (3, 7)
    assert one.session.usable


@pytest.mark.parametrize(
    ("late", "ehlo"),
    [(1.0, PIPELINING), (0.0, b"250-mx\r\n250-PIPELINING\r\n250 LIMITS MAILMAX=2\r\n")],
    ids=["slow server", "worn out"],
)
def test_nothing_follows_where_it_would_wait_or_must_not(late: float, ehlo: bytes) -> None:
    assert Followed(late, ehlo).written == b"second\r\n.\r\n"


def test_what_follows_has_not_begun_when_the_session_ends_before_it() -> None:
    one = Followed()
    one.world.hear(b"421 bye\r\n")
    (before,), (behind,) = one.second, one.third
    assert (before.stage, behind.stage) == (Stage.END, Stage.IDLE)
    assert not one.session.busy


def test_what_follows_is_cut_like_any_other_when_its_turn_has_come() -> None:
    one = Followed()
    one.world.hear(b"250 second\r\n250 ok\r\n")
    one.session.connectionLost(Failure(ConnectionDone()))
    assert isinstance(one.second[0], TransactionDone)
    assert isinstance(one.third[0], SessionEnded)
    assert one.third[0].stage is Stage.RCPT


def test_each_has_its_own_time() -> None:
    one = Followed()
    one.world.clock.advance(sessions.END_SECONDS - 1)
    one.world.hear(b"250 second\r\n")
    one.world.stall(sessions.MAIL_SECONDS, one.third, Stage.MAIL)
