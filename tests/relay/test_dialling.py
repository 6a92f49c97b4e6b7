"""Who is tried first, and the race of two families (RFC 8305), on a Clock without a network."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure

from mailserver.interfaces import Exchange
from mailserver.relay.dialling import HEAD_START, Dialler, Tried, in_order
from mailserver.relay.memory import HostMemory
from mailserver.relay.protection import CLEAR
from mailserver.relay.sessions import Manner
from mailserver.relay.tls import ClientTLS

BOTH = Exchange("mx.b.test", 25, ("192.0.2.1", "2001:db8::1", "192.0.2.2"))


class Transport(StringTransport):
    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass


class World:
    """Connections are made and refused by hand."""

    def __init__(self) -> None:
        self.reactor = MemoryReactorClock()
        self.dialler = Dialler(self.reactor, ClientTLS(), HostMemory(self.reactor))
        first, second, *_ = in_order([BOTH], [CLEAR], 0)
        self.told: list[list[Tried]] = []
        self.sessions: dict[int, Any] = {}
        opening = self.dialler.open(first, second, lambda address: Manner("mx.a.test"))
        Deferred.fromCoroutine(opening).addCallback(self.told.append)

    @property
    def tried(self) -> list[str]:
        return [client[0] for client in self.reactor.tcpClients]

    def connect(self, number: int) -> Transport:
        transport = Transport()
        session = self.sessions[number] = self.reactor.tcpClients[number][2].buildProtocol(None)
        session.makeConnection(transport)
        return transport

    def refuse(self, number: int) -> None:
        factory = self.reactor.tcpClients[number][2]
        factory.clientConnectionFailed(None, Failure(ConnectionRefusedError()))

    def greet(self, number: int) -> None:
        self.sessions[number].dataReceived(b"220 mx ESMTP\r\n")
        self.sessions[number].dataReceived(b"250 mx\r\n")


def test_families_take_turns_and_the_first_changes_with_the_attempt() -> None:
    def addresses(attempts: int) -> list[str]:
        return [candidate.target.address for candidate in in_order([BOTH], [], attempts)]

    assert addresses(0) == ["2001:db8::1", "192.0.2.1", "192.0.2.2"]
    assert addresses(1) == ["192.0.2.1", "2001:db8::1", "192.0.2.2"]


def test_the_second_joins_after_the_head_start_and_the_first_to_connect_wins() -> None:
    world = World()
    assert world.tried == ["2001:db8::1"]
    world.reactor.advance(HEAD_START)
    assert world.tried == ["2001:db8::1", "192.0.2.1"]
    world.connect(1)
    world.greet(1)
    ((won,),) = world.told
    assert won.candidate.target.address == "192.0.2.1"
    assert won.ended is None
    # The slower one is given up, and is no trouble of the host's.
    assert world.dialler.memory.known(in_order([BOTH], [], 0)[0].target) == ""


def test_who_connects_in_time_is_alone() -> None:
    world = World()
    world.connect(0)
    world.reactor.advance(10 * HEAD_START)
    world.greet(0)
    assert world.tried == ["2001:db8::1"]
    assert [tried.ended for tried in world.told[0]] == [None]


def test_a_refusal_does_not_wait_for_the_head_start() -> None:
    world = World()
    world.refuse(0)
    ((lost,),) = world.told
    assert lost.ended is not None
    world.reactor.advance(10 * HEAD_START)
    assert world.tried == ["2001:db8::1"]


def test_both_fail() -> None:
    world = World()
    world.reactor.advance(HEAD_START)
    world.refuse(1)
    assert world.told == []
    world.refuse(0)
    (tried,) = world.told
    assert [one.candidate.target.address for one in tried] == ["192.0.2.1", "2001:db8::1"]
