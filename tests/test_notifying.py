"""What systemd is told, and when."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock

from mailserver.notifying import Notifying


class Reactor(Clock):
    """A clock that runs when it is told to."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.soon: list[Callable[[], Any]] = []
        self.at_the_end: Callable[[], Any] = list

    def callWhenRunning(self, call: Callable[[], Any]) -> None:
        self.soon.append(call)

    def addSystemEventTrigger(self, phase: str, event: str, call: Callable[..., Any], *given: Any) -> None:
        assert (phase, event) == ("before", "shutdown")
        self.at_the_end = lambda: call(*given)


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.setblocking(False)
        yield listening


def all_of(listening: socket.socket) -> list[str]:
    told = []
    while True:
        try:
            told.append(listening.recv(100).decode())
        except BlockingIOError:
            return told


def test_ready_when_the_reactor_runs_then_signs_of_life(heard: socket.socket) -> None:
    reactor = Reactor()
    environment = {"NOTIFY_SOCKET": heard.getsockname(), "WATCHDOG_USEC": "4000000"}
    notifying = Notifying(reactor, {**environment, "WATCHDOG_PID": str(os.getpid())})
    assert notifying.is_wanted
    notifying.startService()
    assert all_of(heard) == []
    reactor.soon.pop()()
    assert all_of(heard) == ["READY=1", "WATCHDOG=1"]
    reactor.pump([1.0] * 4)  # type: ignore[no-untyped-call]
    assert all_of(heard) == ["WATCHDOG=1"] * 2
    reactor.at_the_end()
    assert all_of(heard) == ["STOPPING=1"]
    notifying.stopService()
    assert not reactor.getDelayedCalls()


def test_nobody_listens_and_another_is_watched(heard: socket.socket) -> None:
    assert not Notifying(Reactor(), {}).is_wanted
    reactor = Reactor()
    for more in ({"WATCHDOG_PID": "1", "WATCHDOG_USEC": "4000000"}, {"WATCHDOG_USEC": "soon"}):
        notifying = Notifying(reactor, {"NOTIFY_SOCKET": heard.getsockname(), **more})
        notifying.startService()
        reactor.soon.pop()()
        assert all_of(heard) == ["READY=1"]
    gone = Notifying(reactor, {"NOTIFY_SOCKET": "/nowhere/at/all"})
    gone.startService()
    reactor.at_the_end()
