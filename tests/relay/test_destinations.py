"""Places, lines, windows, dead destinations and kept sessions, on a Clock."""

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mailserver.relay.destinations import (
    DEAD_SECONDS,
    IDLE_SECONDS,
    KEPT,
    LONGEST_DEAD,
    SESSION_SECONDS,
    Destinations,
    Key,
    News,
    Pace,
)

A = Key((("a.test", 25),))
B = Key((("b.test", 25),))
C = Key((("c.test", 25),))


def middle() -> float:
    return 0.5


class FakeSession:
    def __init__(self, started: float = 0.0) -> None:
        self.started, self.usable, self.closed = started, True, False

    def close(self) -> None:
        self.closed, self.usable = True, False


def enter(destinations: Destinations, key: Key, name: str, inside: list[str]) -> None:
    turn = destinations.enter(key)
    if isinstance(turn, str):
        inside.append(turn or name)
    else:
        turn.addCallback(lambda avoid: inside.append(avoid or name))


def test_a_destination_has_its_limit_and_its_line() -> None:
    destinations, inside = Destinations(Clock(), Pace(2)), []
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
    destinations, inside = Destinations(Clock(), Pace(10), total=2), []
    for n in range(5):
        enter(destinations, A, f"a{n}", inside)
    enter(destinations, B, "b0", inside)
    assert inside == ["a0", "a1"]
    destinations.leave(A)
    destinations.leave(A)
    assert set(inside[2:]) == {"a2", "b0"}


def test_who_leaves_at_once_does_not_nest_the_calls() -> None:
    destinations, served = Destinations(Clock(), Pace(1)), []
    assert destinations.enter(A) == ""
    for n in range(5000):
        turn = destinations.enter(A)
        assert not isinstance(turn, str)
        turn.addCallback(lambda _, n=n: (served.append(n), destinations.leave(A)))
        turn.addErrback(served.append)
    destinations.leave(A)
    assert served == list(range(5000))
    assert destinations.busy == 0
    assert destinations._known[A].is_unused


def test_empty_is_told_once_nobody_is_left_or_waits() -> None:
    destinations, told, inside = Destinations(Clock(), Pace(1)), [], []
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
    assert destinations._known[A].is_unused
    assert not clock.getDelayedCalls()
    clock.advance(SESSION_SECONDS)
    old: Any = FakeSession(started=0.0)
    destinations.enter(A)
    destinations.park(A, old)
    assert old.closed


def test_no_more_sessions_stay_open_than_there_are_places() -> None:
    destinations = Destinations(Clock(), Pace(2))
    sessions: list[Any] = [FakeSession() for _ in range(2)]
    destinations.enter(A)
    destinations.enter(A)
    destinations.park(A, sessions[0])
    destinations.leave(A, News.BAD)
    destinations.park(A, sessions[1])
    assert [session.closed for session in sessions] == [False, True]


def test_as_many_stay_open_as_may_be_busy() -> None:
    """300 destinations that each have a message a second keep their sessions; descriptors have an end."""
    destinations = Destinations(Clock())
    sessions: list[Any] = [FakeSession() for _ in range(KEPT + 5)]
    for n, session in enumerate(sessions):
        key = Key(((f"h{n}.test", 25),))
        destinations.enter(key)
        destinations.park(key, session)
        destinations.leave(key, News.GOOD)
    assert [session.closed for session in sessions] == [False] * KEPT + [True] * 5


# -- the destination's own state ---------------------------------------------------------------


def test_a_destination_that_always_fails_is_dead_and_probed_by_one() -> None:
    clock = Clock()
    destinations, inside = Destinations(clock, vary=middle), []
    for n in range(10):
        enter(destinations, A, str(n), inside)
    assert inside == ["0", "1", "2", "3", "4"]  # a window of 5
    while destinations.busy:
        destinations.leave(A, News.BAD, "connect: Connection refused")
    # The window shrank at once, so few followed; the others are told, without an attempt.
    told = inside.count("connect: Connection refused")
    assert told >= 3
    assert inside[-told:] == ["connect: Connection refused"] * told
    assert destinations.enter(A) == "connect: Connection refused"
    clock.advance(DEAD_SECONDS)
    inside.clear()
    for n in range(5):
        enter(destinations, A, str(n), inside)
    assert inside == ["0"]
    destinations.leave(A, News.BAD, "still dead")
    assert inside == ["0", *["still dead"] * 4]
    # Twice as long now, at most LONGEST_DEAD.
    clock.advance(2 * DEAD_SECONDS - 1)
    assert destinations.enter(A) == "still dead"
    clock.advance(1)
    for _ in range(10):
        assert destinations.enter(A) == ""
        destinations.leave(A, News.BAD, "still dead")
        clock.advance(LONGEST_DEAD)


def test_a_dead_destination_is_tried_at_once_when_an_operator_says_so() -> None:
    destinations, inside = Destinations(Clock(), vary=middle), []
    for n in range(5):
        enter(destinations, A, str(n), inside)
        destinations.leave(A, News.BAD, "no")
    assert destinations.enter(A) == "no"
    assert (destinations.forgive(A), destinations.forgive(A), destinations.forgive(B)) == (True, False, False)
    assert destinations.enter(A) == ""
    destinations.leave(A, News.BAD, "no again")
    assert destinations.enter(A) == "no again"  # one look was enough, as after a probe


def test_a_dead_destination_that_answers_is_ramped_up() -> None:
    clock = Clock()
    destinations, inside = Destinations(clock, vary=middle), []
    for n in range(5):
        enter(destinations, A, str(n), inside)
        destinations.leave(A, News.BAD, "no")
    clock.advance(DEAD_SECONDS)
    inside.clear()
    for n in range(50):
        enter(destinations, A, str(n), inside)
    assert inside == ["0"]
    sizes = []
    for _ in range(12):
        destinations.leave(A, News.GOOD)
        sizes.append(destinations._known[A].busy)
    assert sizes[0] == 1
    assert sizes == sorted(sizes)
    assert 3 <= sizes[-1] <= 6


def test_times_are_varied_so_that_nothing_comes_as_a_herd() -> None:
    for drawn, factor in ((0.0, 0.8), (0.5, 1.0), (1.0, 1.2)):
        clock = Clock()
        destinations = Destinations(clock, Pace(20, per_minute=60), vary=lambda drawn=drawn: drawn)  # type: ignore[misc]
        destinations.enter(A)
        assert isinstance(destinations.enter(A), Deferred)
        (call,) = clock.getDelayedCalls()
        assert call.getTime() == pytest.approx(factor)
        destinations = Destinations(clock, vary=lambda drawn=drawn: drawn)  # type: ignore[misc]
        for _ in range(5):
            destinations.enter(A)
            destinations.leave(A, News.BAD, "no")
        described = destinations.describe(A)
        assert described is not None
        assert described["probe_in"] == pytest.approx(factor * DEAD_SECONDS)


def test_a_probe_that_learnt_nothing_lets_the_next_one_try() -> None:
    clock = Clock()
    destinations, inside = Destinations(clock, vary=middle), []
    for n in range(5):
        enter(destinations, A, str(n), inside)
        destinations.leave(A, News.BAD, "no")
    clock.advance(DEAD_SECONDS)
    inside.clear()
    enter(destinations, A, "first", inside)
    enter(destinations, A, "second", inside)
    destinations.leave(A)
    assert inside == ["first", "second"]


def test_a_rate_is_kept() -> None:
    clock = Clock()
    destinations, inside = Destinations(clock, Pace(20, per_minute=60), vary=middle), []
    for n in range(3):
        enter(destinations, A, str(n), inside)
    assert inside == ["0"]
    clock.advance(0.9)
    assert inside == ["0"]
    clock.advance(0.1)
    assert inside == ["0", "1"]
    clock.advance(1)
    assert inside == ["0", "1", "2"]
    assert not clock.getDelayedCalls()


def test_a_route_has_a_pace_of_its_own() -> None:
    destinations, inside = Destinations(Clock()), []
    assert destinations.enter(A, Pace(1)) == ""
    enter(destinations, A, "2", inside)
    assert inside == []
    destinations.leave(A, News.GOOD)
    assert inside == ["2"]


def test_unused_destinations_are_forgotten_when_there_are_many() -> None:
    destinations = Destinations(Clock())
    destinations.enter(A)
    for n in range(10_050):
        key = Key(((f"h{n}.test", 25),))
        destinations.enter(key)
        destinations.leave(key, News.GOOD)
    assert len(destinations._known) <= 10_000
    assert A in destinations._known
    described = destinations.describe(A)
    assert described is not None
    assert (described["busy"], described["window"], described["dead"]) == (1, 5, "")


def test_a_provider_that_answers_421_above_five_connections_is_met_at_its_limit() -> None:
    """Each attempt takes a second; the sixth connection at once is told 421 and its message delayed.

    Postfix's own figures (SCHEDULER_README): 49.7 % with constant feedback, 16.5 % with 1/N.
    """
    clock = Clock()
    destinations = Destinations(clock, vary=middle)
    connections, settled_at = 0, 200
    told: list[bool] = []

    def come() -> None:
        turn = destinations.enter(A)
        if isinstance(turn, str):
            be_inside(turn)
        else:
            turn.addCallback(be_inside)

    def be_inside(avoid: str) -> None:
        nonlocal connections
        assert not avoid
        connections += 1
        refused = connections > 5
        told.append(refused)
        clock.callLater(0.01 if refused else 1.0, go, refused)

    def go(refused: bool) -> None:
        nonlocal connections
        connections -= 1
        destinations.leave(A, News.BAD if refused else News.GOOD, "421")
        come()

    for _ in range(100):  # a hundred messages wait at any time
        come()
    for _ in range(60_000):
        clock.advance(0.01)
    attempts = told[settled_at:]
    assert len(attempts) > 2000
    assert sum(attempts) / len(attempts) < 0.20


# -- going along -----------------------------------------------------------------------------------


def full(clock: Clock, pace: Pace | None = None, **more: Any) -> tuple[Destinations, list[str]]:
    """One inside, at a destination that takes one at a time."""
    destinations, inside = Destinations(clock, pace or Pace(1), **more), []
    enter(destinations, A, "0", inside)
    return destinations, inside


def test_who_goes_along_has_the_place_of_the_one_before() -> None:
    destinations, inside = full(Clock())
    enter(destinations, A, "a", inside)
    enter(destinations, A, "b", inside)
    waiting = destinations.next_in_line(A)
    assert waiting is not None
    destinations.take_along(A)
    destinations.hand_over(A, News.GOOD)
    assert (inside, destinations.busy_at(A)) == (["0"], 1)
    destinations.leave(A, News.GOOD)
    assert (inside, destinations.busy_at(A)) == (["0", "b"], 1)


def test_who_is_sent_back_is_the_next() -> None:
    destinations, inside = full(Clock())
    enter(destinations, A, "a", inside)
    enter(destinations, A, "b", inside)
    waiting = destinations.next_in_line(A)
    assert waiting is not None
    destinations.take_along(A)
    destinations.send_back(A, waiting)
    destinations.leave(A)
    assert inside == ["0", "a"]


def test_nobody_goes_along_past_those_who_wait_elsewhere() -> None:
    destinations, inside = full(Clock(), total=2)
    enter(destinations, A, "a", inside)
    assert destinations.next_in_line(A) is not None
    enter(destinations, B, "x", inside)
    enter(destinations, C, "y", inside)
    assert inside == ["0", "x"]
    assert destinations.next_in_line(A) is None


def test_nobody_goes_along_where_messages_are_counted() -> None:
    destinations, inside = full(Clock(), Pace(1, per_minute=60))
    enter(destinations, A, "a", inside)
    assert destinations.next_in_line(A) is None
