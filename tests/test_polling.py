"""The light turn of the reactor: on Twisted's own epoll reactor, with its sockets."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from threading import Thread
from typing import Any

import pytest
from twisted.internet.base import ReactorBase
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactor
from twisted.logger import globalLogPublisher

from mailserver.polling import LONGEST_SECONDS, poll_lightly


class Echo(Protocol):
    """Says again what it hears; trips over ``trip``."""

    lost: Any = None

    def dataReceived(self, data: bytes) -> None:
        if data == b"trip":
            raise ValueError("tripped")
        self.transport.write(data)

    def connectionLost(self, reason: Any = None) -> None:
        self.factory.lost.append(reason.type)  # type: ignore[union-attr]


class Echoes(Factory):
    noisy = False
    protocol = Echo

    def __init__(self) -> None:
        self.lost: list[type[BaseException]] = []


@pytest.fixture
def reactor() -> Iterator[Any]:
    reactor: Any = EPollReactor()
    reactor.seconds = time.monotonic  # as service.py has it
    yield reactor
    reactor.removeAll()
    reactor._poller.close()


@pytest.fixture
def echoes(reactor: Any) -> Iterator[tuple[Echoes, int]]:
    echoes = Echoes()
    port: Any = reactor.listenTCP(0, echoes, interface="127.0.0.1")
    yield echoes, port.getHost().port
    if port.connected:
        reactor.removeReader(port)
        port.socket.close()


def turn_until(reactor: Any, true: Callable[[], bool]) -> None:
    for _ in range(200):
        if true():
            return
        reactor.doIteration(0.02)
    raise AssertionError("it did not come")


def heard(client: socket.socket) -> bytes:
    try:
        return client.recv(1000)
    except BlockingIOError:
        return b""


def connected(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port))
    client.setblocking(False)
    return client


def test_what_is_said_arrives_and_the_answer_comes(reactor: Any, echoes: tuple[Echoes, int]) -> None:
    poll_lightly(reactor)
    assert reactor.doIteration.__module__ == "mailserver.polling"
    with connected(echoes[1]) as client:
        client.sendall(b"hello")
        answer = []
        turn_until(reactor, lambda: bool(answer.append(heard(client)) or b"".join(answer) == b"hello"))


def test_a_client_that_leaves_is_seen_to_leave(reactor: Any, echoes: tuple[Echoes, int]) -> None:
    poll_lightly(reactor)
    factory, port = echoes
    with connected(port) as client:
        client.sendall(b"bye")
        turn_until(reactor, lambda: heard(client) == b"bye")
    turn_until(reactor, lambda: len(factory.lost) == 1)
    assert factory.lost[0].__name__ == "ConnectionDone"


def test_a_reset_is_told_from_an_end(reactor: Any, echoes: tuple[Echoes, int]) -> None:
    poll_lightly(reactor)
    factory, port = echoes
    with connected(port) as client:
        client.sendall(b"x")
        turn_until(reactor, lambda: heard(client) == b"x")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    turn_until(reactor, lambda: len(factory.lost) == 1)
    assert factory.lost[0].__name__ == "ConnectionLost"


def test_a_bug_ends_its_connection_alone_and_is_logged(reactor: Any, echoes: tuple[Echoes, int]) -> None:
    poll_lightly(reactor)
    factory, port = echoes
    seen: list[Any] = []
    globalLogPublisher.addObserver(seen.append)
    try:
        with connected(port) as one, connected(port) as other:
            one.sendall(b"trip")
            turn_until(reactor, lambda: len(factory.lost) == 1)
            other.sendall(b"well")
            turn_until(reactor, lambda: heard(other) == b"well")
    finally:
        globalLogPublisher.removeObserver(seen.append)
    assert factory.lost[:1] == [ValueError]
    assert [str(event["log_failure"].value) for event in seen if "log_failure" in event] == ["tripped"]


def run(reactor: Any, seconds: float = 20.0) -> None:
    """The main loop, until somebody stops it; it is stopped after ``seconds`` in any case."""
    poll_lightly(reactor)
    late = reactor.callLater(seconds, reactor.stop)
    reactor.startRunning(False)
    reactor.mainLoop()
    assert late.active(), "it had to be stopped"


def test_the_main_loop_serves_timers_threads_and_sockets(reactor: Any, echoes: tuple[Echoes, int]) -> None:
    seen: list[str] = []

    def from_a_thread() -> None:
        with socket.create_connection(("127.0.0.1", echoes[1])) as client:
            client.sendall(b"hello")
            seen.append(client.recv(5).decode())
        reactor.callFromThread(seen.append, "from a thread")
        reactor.callFromThread(reactor.callLater, 0, at_once)

    def at_once() -> None:
        seen.append("at once")
        moved.reset(0.01)
        cancelled.cancel()

    thread = Thread(target=from_a_thread)
    moved = reactor.callLater(15, reactor.stop)
    cancelled = reactor.callLater(0.05, seen.append, "cancelled")
    later = reactor.callLater(0.001, thread.start)
    run(reactor)
    thread.join()
    assert seen == ["hello", "from a thread", "at once"]
    assert later.called


def test_the_main_loop_goes_on_after_a_bug(reactor: Any, echoes: tuple[Echoes, int]) -> None:
    seen: list[Any] = []
    whole = reactor.runUntilCurrent

    def broken() -> None:
        reactor.runUntilCurrent = whole
        raise ValueError("once")

    globalLogPublisher.addObserver(seen.append)
    try:
        reactor.callLater(0, lambda: 1 // 0)
        reactor.callLater(0.01, reactor.callLater, 0.01, reactor.stop)
        reactor.callFromThread(lambda: [].pop())
        reactor.runUntilCurrent = broken
        run(reactor)
    finally:
        globalLogPublisher.removeObserver(seen.append)
    kinds = {type(event["log_failure"].value) for event in seen if "log_failure" in event}
    assert {ZeroDivisionError, IndexError, ValueError} == kinds


class Counted:
    """The kernel's epoll, and how often it was asked."""

    def __init__(self, poller: Any) -> None:
        self._poller = poller
        self.waits: list[float] = []

    def poll(self, wait: float, most: int) -> Any:
        self.waits.append(wait)
        return self._poller.poll(wait, most)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._poller, name)


def test_the_main_loop_sleeps_until_its_first_timer(reactor: Any, echoes: tuple[Echoes, int]) -> None:
    reactor._poller = counted = Counted(reactor._poller)
    reactor.callLater(0.2, reactor.stop)
    run(reactor)
    assert len(counted.waits) < 10
    assert 0.1 < max(counted.waits) <= 0.2


def test_a_timer_of_the_far_future_is_no_error(reactor: Any, echoes: tuple[Echoes, int]) -> None:
    reactor._poller = counted = Counted(reactor._poller)
    thread = Thread(target=lambda: (time.sleep(0.05), reactor.callFromThread(reactor.stop)))
    thread.start()
    run(reactor, seconds=1e9)
    thread.join()
    assert max(counted.waits) == LONGEST_SECONDS


def test_it_can_be_taken_back(reactor: Any) -> None:
    poll_lightly(reactor)()
    assert reactor.doIteration.__module__ == "twisted.internet.epollreactor"
    assert reactor.mainLoop.__func__ is ReactorBase.mainLoop


def test_another_reactor_is_left_alone() -> None:
    other = MemoryReactor()
    before = dict(other.__dict__)
    poll_lightly(other)()
    assert other.__dict__.keys() == before.keys()
