"""Listening sockets that one process binds and others inherit."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, UNIXClientEndpoint, connectProtocol
from twisted.internet.interfaces import IAddress, IProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase, TestCase

from mailserver.config import Listen
from mailserver.listeners import (
    BACKLOG,
    GIVE_WAY_SECONDS,
    IN_VAIN_SECONDS,
    Accepting,
    Listener,
    StartFailed,
    make_listeners,
)
from tests.scratch import scratch_path

LOOPBACK = "tcp:0:interface=127.0.0.1"


class Greeter(Protocol):
    """Says who it is and which client it sees."""

    def __init__(self, name: bytes) -> None:
        self._name = name

    def dataReceived(self, data: bytes) -> None:
        peer: Any = self.transport.getPeer()
        seen = peer.host.encode() if hasattr(peer, "host") else b"a socket"
        self.transport.write(self._name + b" sees " + seen)
        self.transport.loseConnection()


class Greeters(Factory):
    noisy = False

    def __init__(self, name: bytes) -> None:
        self._name = name
        self.built = 0

    def buildProtocol(self, addr: IAddress | None) -> IProtocol:
        self.built += 1
        return Greeter(self._name)


class Share:
    """What a process has taken, and whether that was more than its share."""

    def __init__(self) -> None:
        self.taken = 0
        self.busier = True

    def took(self) -> None:
        self.taken += 1

    def is_busier(self) -> bool:
        return self.busier


class Client(Protocol):
    def __init__(self, says: bytes) -> None:
        self.says = says
        self.heard = b""
        self.ended: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        self.transport.write(self.says)

    def dataReceived(self, data: bytes) -> None:
        self.heard += data

    def connectionLost(self, reason: object = None) -> None:
        self.ended.callback(self.heard)


async def talk(endpoint: Any, says: bytes = b"hello") -> bytes:
    return await (await connectProtocol(endpoint, Client(says))).ended


class LentTest(TestCase):
    """The parent's listener, and one that inherits its socket, as in another process."""

    def lend(self, description: str, inherited_as: str = "") -> tuple[Listener, Listener]:
        parent = Listener(reactor, "smtp", description)
        parent.bind()
        parent.serve(Greeters(b"the parent"))
        worker = Listener(reactor, "smtp", inherited_as or description, os.dup(parent.lend()))
        worker.bind()
        worker.serve(Greeters(b"a worker"))
        self.addCleanup(parent.close)
        self.addCleanup(worker.close)
        return parent, worker

    def to(self, listener: Listener) -> Any:
        assert listener.port is not None
        return TCP4ClientEndpoint(reactor, "127.0.0.1", listener.port.getHost().port)  # type: ignore[attr-defined]

    async def test_who_inherits_the_socket_serves_it(self) -> None:
        parent, worker = self.lend(LOOPBACK)
        assert worker.where == parent.where
        assert parent.port not in reactor.getReaders()  # type: ignore[attr-defined]
        for _ in range(5):
            assert await talk(self.to(parent)) == b"a worker sees 127.0.0.1"

    async def test_the_parent_retires_and_the_worker_goes_on(self) -> None:
        parent, worker = self.lend(LOOPBACK)
        parent.retire()
        await parent.close()
        assert await talk(self.to(worker)) == b"a worker sees 127.0.0.1"

    async def test_a_worker_leaves_and_another_goes_on(self) -> None:
        parent, worker = self.lend(LOOPBACK)
        other = Listener(reactor, "smtp", LOOPBACK, os.dup(parent.lend()))
        other.bind()
        other.serve(Greeters(b"the other"))
        self.addCleanup(other.close)
        await worker.close()
        assert await talk(self.to(parent)) == b"the other sees 127.0.0.1"

    def test_a_crowd_is_shared_one_connection_a_turn(self) -> None:
        parent, worker = self.lend(LOOPBACK)
        place: Any = parent.port
        crowd = [socket.create_connection(place.socket.getsockname()) for _ in range(3)]
        self.addCleanup(lambda: [client.close() for client in crowd])
        greeters: Any = worker.door.behind
        port: Any = worker.port
        for served in (1, 2, 3):
            port.doRead()
            assert greeters.built == served

    def test_an_answer_waits_for_no_acknowledgement_of_what_went_before(self) -> None:
        for listener in self.lend(LOOPBACK):
            place: Any = listener.port
            with socket.create_connection(place.socket.getsockname()), place.socket.accept()[0] as accepted:
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    def accepting(self) -> tuple[Any, Accepting, Clock, Callable[[], int]]:
        """A port that has taken more than its share; ``arrive`` lets a client come and tells how many have
        been served."""
        parent, worker = self.lend(LOOPBACK)
        clock = Clock()
        clock.advance(100.0)
        port: Any = worker.port
        accepting = Accepting(port, clock)
        accepting.share = worker.door.share = self.share = Share()
        place: Any = parent.port
        greeters: Any = worker.door.behind

        def arrive() -> int:
            client = socket.create_connection(place.socket.getsockname())
            self.addCleanup(client.close)
            port.doRead()
            return int(greeters.built)

        return port, accepting, clock, arrive

    def test_who_has_taken_more_leaves_the_next_to_others_for_a_moment(self) -> None:
        port, _, clock, arrive = self.accepting()
        self.share.busier = False
        assert arrive() == 1
        assert self.share.taken == 1
        self.share.busier = True
        assert arrive() == 1
        assert port not in reactor.getReaders()  # type: ignore[attr-defined]
        clock.advance(GIVE_WAY_SECONDS)
        assert port in reactor.getReaders()  # type: ignore[attr-defined]
        port.doRead()  # nobody else has taken it
        assert self.share.taken == 2

    def test_where_nobody_takes_what_is_left_to_them_nothing_is_left_for_longer_and_longer(self) -> None:
        port, _, clock, arrive = self.accepting()
        served, times = 0, []
        for _ in range(6):
            began = clock.seconds()
            while arrive() > served:  # taken at once
                served += 1
                clock.advance(0.001)
            times.append(clock.seconds() - began)
            clock.advance(GIVE_WAY_SECONDS)
            port.doRead()
            served = self.share.taken
        assert times == pytest.approx([0.0, 0.05, 0.1, 0.2, 0.4, 0.8], abs=0.005)

    def test_where_others_take_it_they_are_asked_again(self) -> None:
        port, _, clock, arrive = self.accepting()
        for _ in range(3):
            assert arrive() == 0
            clock.advance(GIVE_WAY_SECONDS)
            assert port in reactor.getReaders()  # type: ignore[attr-defined]
            port.socket.accept()[0].close()  # as another process would have
            clock.advance(IN_VAIN_SECONDS)

    def test_a_port_that_gives_way_may_be_closed(self) -> None:
        port, _, clock, arrive = self.accepting()
        assert arrive() == 0
        port.socket.close()
        clock.advance(GIVE_WAY_SECONDS)
        assert port not in reactor.getReaders()  # type: ignore[attr-defined]

    async def test_what_a_description_wraps_around_a_port_counts_for_who_inherits_it(self) -> None:
        parent, _ = self.lend(f"haproxy:{LOOPBACK}")
        header = b"PROXY TCP4 192.0.2.7 192.0.2.1 4000 25\r\n"
        assert await talk(self.to(parent), header + b"hello") == b"a worker sees 192.0.2.7"

    async def test_a_socket_of_systemd_is_inherited_like_any_other(self) -> None:
        parent, _ = self.lend(LOOPBACK, inherited_as="systemd:domain=INET:index=0")
        assert await talk(self.to(parent)) == b"a worker sees 127.0.0.1"

    async def test_a_unix_socket_keeps_its_file_and_mode_until_the_parent_closes(self) -> None:
        path = scratch_path(self)
        parent, worker = self.lend(f"unix:{path}:mode=600")
        endpoint = UNIXClientEndpoint(reactor, str(path))
        assert await talk(endpoint) == b"a worker sees a socket"
        parent.retire()
        await worker.close()
        assert stat.S_IMODE(path.stat().st_mode) == 384
        await parent.close()
        assert not path.exists()


class MakeListenersTest(SynchronousTestCase):
    def test_twisted_s_log_calls_a_listener_by_its_name(self) -> None:
        listener = Listener(reactor, "smtp", LOOPBACK)
        listener.bind()
        self.addCleanup(listener.close)
        port: Any = listener.port
        assert port._getLogPrefix(port.factory) == "listen.smtp"

    def test_those_that_are_off_are_left_out(self) -> None:
        listen = Listen(smtp=LOOPBACK, submission="", submissions="", pop3=LOOPBACK, pop3s="")
        assert [one.name for one in make_listeners(listen, reactor, {})] == ["smtp", "pop3"]

    def test_what_is_not_a_socket_cannot_be_shared(self) -> None:
        listener = Listener(reactor, "smtp", LOOPBACK)
        listener.port = object()  # type: ignore[assignment]
        with pytest.raises(StartFailed) as caught:
            listener.lend()
        assert "workers = 1" in str(caught.value)


def test_a_description_that_nobody_understands_is_told() -> None:
    with pytest.raises(StartFailed, match=r"listen\.smtp"):
        Listener(reactor, "smtp", "tcp:tcp:tcp")


@pytest.mark.parametrize(
    ("description", "waiting"),
    [("tcp:0:interface=127.0.0.1", BACKLOG), ("tcp:0:interface=127.0.0.1:backlog=7", 7)],
)
def test_room_for_a_crowd_unless_another_is_named(description: str, waiting: int) -> None:
    reactor = MemoryReactor()
    Listener(reactor, "smtp", description).bind()
    assert reactor.tcpServers[0][2] == waiting


@pytest.mark.parametrize("interface", ["127.0.0.1.4", "192.0.2.77"])
def test_an_address_that_is_not_ours_is_named_as_what_is_wrong(interface: str) -> None:
    listener = Listener(reactor, "smtp", f"tcp:0:interface={interface}")
    with pytest.raises(StartFailed, match="name an address of this machine"):
        listener.bind()
