"""Places, lines, kept sessions and memory, on a Clock."""

from typing import Any

from twisted.internet.task import Clock

from mailserver.relay.destinations import (
    CLEAR_SECONDS,
    IDLE_SECONDS,
    LONGEST_PAUSE,
    QUICK_PAUSE,
    SESSION_SECONDS,
    SLOW_PAUSE,
    Destinations,
    HostMemory,
    Key,
)
from mailserver.relay.smtp import Target

A: Key = (("a.test", 25),)
B: Key = (("b.test", 25),)
TARGET = Target("mx.b.test", "192.0.2.1", 25)


class FakeSession:
    def __init__(self, started: float = 0.0) -> None:
        self.started, self.usable, self.closed = started, True, False

    def close(self) -> None:
        self.closed, self.usable = True, False


def enter(destinations: Destinations, key: Key, name: str, inside: list[str]) -> None:
    turn = destinations.enter(key)
    if turn is None:
        inside.append(name)
    else:
        turn.addCallback(lambda _: inside.append(name))


def test_a_destination_has_its_limit_and_its_line() -> None:
    destinations, inside = Destinations(Clock(), concurrency=2), []
    for name in "12345":
        enter(destinations, A, name, inside)
    enter(destinations, B, "b", inside)
    assert inside == ["1", "2", "b"]
    destinations.leave(A)
    assert inside == ["1", "2", "b", "3"]
    destinations.leave(A)
    destinations.leave(A)
    assert inside[-2:] == ["4", "5"]
    assert destinations.busy == 3


def test_places_for_all_go_round_the_destinations() -> None:
    destinations, inside = Destinations(Clock(), concurrency=10, total=2), []
    for n in range(5):
        enter(destinations, A, f"a{n}", inside)
    enter(destinations, B, "b0", inside)
    assert inside == ["a0", "a1"]
    destinations.leave(A)
    destinations.leave(A)
    assert set(inside[2:]) == {"a2", "b0"}


def test_who_leaves_at_once_does_not_nest_the_calls() -> None:
    destinations, served = Destinations(Clock(), concurrency=1), []
    assert destinations.enter(A) is None
    for n in range(5000):
        turn = destinations.enter(A)
        assert turn is not None
        turn.addCallback(lambda _, n=n: (served.append(n), destinations.leave(A)))
        turn.addErrback(served.append)
    destinations.leave(A)
    assert served == list(range(5000))
    assert destinations.busy == 0
    assert destinations._known == {}


def test_empty_is_told_once_nobody_is_left_or_waits() -> None:
    destinations, told, inside = Destinations(Clock(), concurrency=1), [], []
    assert destinations.when_empty() is None
    enter(destinations, A, "1", inside)
    enter(destinations, A, "2", inside)
    waiting = destinations.when_empty()
    assert waiting is not None
    waiting.addCallback(told.append)
    destinations.leave(A)
    assert told == []
    destinations.leave(A)
    assert told == [None]


def test_kept_sessions() -> None:
    clock = Clock()
    destinations = Destinations(clock)
    destinations.enter(A)
    first: Any = FakeSession()
    destinations.park(A, first)
    destinations.leave(A)
    assert destinations.take(B) is None
    assert destinations.take(A) is first
    assert destinations.take(A) is None
    destinations.enter(A)
    second: Any = FakeSession()
    destinations.park(A, first)
    destinations.park(A, second)
    destinations.leave(A)
    second.usable = False
    assert destinations.take(A) is first


def test_kept_sessions_are_closed_when_idle_or_old() -> None:
    clock = Clock()
    destinations = Destinations(clock)
    session: Any = FakeSession()
    destinations.enter(A)
    destinations.park(A, session)
    destinations.leave(A)
    clock.advance(IDLE_SECONDS)
    clock.advance(IDLE_SECONDS)
    assert session.closed
    assert destinations._known == {}
    assert not clock.getDelayedCalls()
    clock.advance(SESSION_SECONDS)
    old: Any = FakeSession(started=0.0)
    destinations.enter(A)
    destinations.park(A, old)
    assert old.closed


def test_a_slow_failure_is_remembered_longer_each_time() -> None:
    clock = Clock()
    memory = HostMemory(clock)
    assert memory.reason_to_avoid(TARGET) == ""
    pause = SLOW_PAUSE
    for _ in range(8):
        memory.failed(TARGET, 30, "dead")
        # Nineteen more that began before the first had failed.
        for _ in range(19):
            memory.failed(TARGET, 30, "dead")
        clock.advance(pause - 1)
        assert memory.reason_to_avoid(TARGET) == "dead"
        clock.advance(1)
        assert memory.reason_to_avoid(TARGET) == ""
        clock.advance(30)
        pause = min(2 * pause, LONGEST_PAUSE)
    memory.worked(TARGET)
    memory.failed(TARGET, 0, "refused")
    clock.advance(QUICK_PAUSE)
    assert memory.reason_to_avoid(TARGET) == ""
    clock.advance(SLOW_PAUSE)
    memory.failed(TARGET, 30, "dead")
    clock.advance(SLOW_PAUSE)
    assert memory.reason_to_avoid(TARGET) == ""


def test_a_success_forgets_the_failure() -> None:
    memory = HostMemory(Clock())
    memory.failed(TARGET, 30, "dead")
    memory.worked(TARGET)
    assert memory.reason_to_avoid(TARGET) == ""


def test_hosts_that_cannot_do_tls() -> None:
    clock = Clock()
    memory = HostMemory(clock)
    assert not memory.tls_fails(TARGET)
    memory.tls_failed(TARGET)
    assert memory.tls_fails(TARGET)
    assert memory.reason_to_avoid(TARGET) == ""
    clock.advance(CLEAR_SECONDS)
    assert not memory.tls_fails(TARGET)
