"""Group commit: who waits for whom, and for how long."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from mailserver.group_commit import FRESH_SECONDS, LEAST_SECONDS, LONGEST_WAIT, GroupCommit
from mailserver.threads import Bridge
from tests.turns import Turns

SYNC = 0.001


class Room:
    """One room that has something to sync, which took ``SYNC`` seconds the last times."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.time = 100.0
        self.group = GroupCommit(self.turns, lambda: self.time)
        self.departures = 0
        self.departure = self.group.departure(self._go)
        for _ in range(50):
            self.sync()

    def _go(self) -> None:
        self.departures += 1

    def sync(self, seconds: float = SYNC) -> None:
        """Somebody sets out alone and arrives."""
        self.departure.gathered()
        self.turns.end()
        self.time += seconds
        self.departure.arrived()
        self.departures = 0

    def gather(self, is_full: bool = False) -> None:
        self.departure.gathered(is_full)
        self.turns.end()


@pytest.fixture
def room() -> Room:
    return Room()


def test_what_comes_alone_sets_out_when_the_turn_ends(room: Room) -> None:
    room.departure.gathered()
    room.departure.gathered()
    assert room.departures == 0
    room.turns.end()
    assert room.departures == 1
    assert not room.turns.timers
    room.turns.end()
    assert room.departures == 1


def test_while_more_is_expected_it_waits_and_sets_out_with_the_last(room: Room) -> None:
    room.group.began("one")
    room.group.began("two")
    room.gather()
    room.gather()
    assert room.departures == 0
    room.group.complete("two")
    room.gather()
    assert room.departures == 0
    room.group.complete("one")
    room.gather()
    assert room.departures == 1


@pytest.mark.parametrize(("sync", "wait"), [(SYNC, 2 * SYNC), (0.0001, 0.0002), (1.0, LONGEST_WAIT)])
def test_it_waits_as_long_as_two_syncs_take_and_a_short_time_at_most(
    room: Room, sync: float, wait: float
) -> None:
    for _ in range(50):
        room.sync(sync)
    room.group.began("one")
    for _ in range(3):
        room.gather()
    ((seconds, _),) = room.turns.timers
    assert seconds == pytest.approx(wait, rel=0.01)
    room.turns.wait()
    assert room.departures == 1


def test_as_many_as_share_a_sync_wait_for_nobody(room: Room) -> None:
    room.group.began("one")
    room.gather()
    room.gather(is_full=True)
    assert room.departures == 1
    room.gather()
    assert room.departures == 1


def test_when_nobody_is_left_who_could_come_it_sets_out(room: Room) -> None:
    room.group.began("one")
    room.group.began("two")
    room.gather()
    room.group.ended("one")
    room.turns.end()
    assert room.departures == 0
    room.group.ended("two")  # RSET, a refusal, a client that has gone: no message
    room.turns.end()
    assert room.departures == 1
    room.group.ended("two")
    room.turns.end()
    assert room.departures == 1


def test_the_time_of_those_who_have_set_out_is_not_that_of_the_next(room: Room) -> None:
    room.group.began("one")
    room.gather()
    room.group.complete("one")
    room.gather()
    assert room.departures == 1
    former, room.turns.timers = room.turns.timers, []
    room.group.began("two")
    room.gather()
    for _, call in former:
        call()
    assert room.departures == 1
    room.turns.wait()
    assert room.departures == 2


def complete(room: Room, seconds: float, times: int = 200) -> None:
    """Transactions that take so long."""
    for number in range(times):
        room.group.began(number)
        room.time += seconds
        room.group.complete(number)


def test_nobody_waits_for_a_slow_client(room: Room) -> None:
    room.group.began("slow")
    assert room.group.expects_more(SYNC)
    room.time += 2 * LEAST_SECONDS
    assert not room.group.expects_more(SYNC)
    complete(room, FRESH_SECONDS / 2)
    room.group.began("slow")
    room.time += FRESH_SECONDS * 0.6
    assert room.group.expects_more(SYNC)
    room.group.began("quick")
    room.time += FRESH_SECONDS * 0.6
    assert room.group.expects_more(SYNC)
    room.group.complete("quick")
    assert not room.group.expects_more(SYNC)


def test_nobody_waits_for_what_cannot_be_there_in_time(room: Room) -> None:
    complete(room, 0.005)
    room.group.began("far")
    assert not room.group.expects_more(SYNC)
    room.time += 0.0045
    assert room.group.expects_more(SYNC)


def test_over_a_network_nobody_is_there_in_time(room: Room) -> None:
    complete(room, 2 * FRESH_SECONDS)
    for _ in range(30):
        room.group.began(object())
        room.time += 0.001
        assert not room.group.expects_more(LONGEST_WAIT)


def test_a_reactor_lets_it_set_out_in_time() -> None:
    clock = Clock()
    group = GroupCommit(Bridge(clock), clock.seconds)  # type: ignore[arg-type]
    gone: list[float] = []
    departure = group.departure(lambda: gone.append(clock.seconds()))
    departure.gathered()
    clock.advance(0)
    assert gone == [0.0]
    clock.advance(SYNC)
    departure.arrived()
    group.began("one")
    departure.gathered()
    clock.advance(0)
    assert len(gone) == 1
    clock.advance(LONGEST_WAIT)
    assert len(gone) == 2
