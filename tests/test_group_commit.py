"""Group commit: who waits for whom, and for how long."""

from __future__ import annotations

import pytest

from mailserver.group_commit import FRESH_SECONDS, LONGEST_WAIT, Departure, GroupCommit
from tests.turns import Turns


class Room:
    """One room that has something to sync."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.time = 100.0
        self.group = GroupCommit(self.turns, lambda: self.time)
        self.departures = 0
        self.departure = Departure(self.group, self._go)

    def _go(self) -> None:
        self.departures += 1


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
    for _ in range(2):
        room.departure.gathered()
        room.turns.end()
    assert room.departures == 0
    room.group.ended("two")
    room.departure.gathered()
    room.turns.end()
    assert room.departures == 0
    room.group.ended("one")
    room.departure.gathered()
    room.turns.end()
    assert room.departures == 1


def test_it_waits_a_short_time_at_most(room: Room) -> None:
    room.group.began("one")
    for _ in range(3):
        room.departure.gathered()
        room.turns.end()
    assert [seconds for seconds, _ in room.turns.timers] == [LONGEST_WAIT]
    room.turns.wait()
    assert room.departures == 1


def test_as_many_as_share_a_sync_wait_for_nobody(room: Room) -> None:
    room.group.began("one")
    room.departure.gathered()
    room.departure.gathered(is_full=True)
    room.turns.end()
    assert room.departures == 1
    room.departure.gathered()
    room.turns.end()
    assert room.departures == 1


def test_the_time_of_those_who_have_set_out_is_not_that_of_the_next(room: Room) -> None:
    room.group.began("one")
    room.departure.gathered()
    room.turns.end()
    room.group.ended("one")
    room.departure.gathered()
    room.turns.end()
    assert room.departures == 1
    former, room.turns.timers = room.turns.timers, []
    room.group.began("two")
    room.departure.gathered()
    room.turns.end()
    for _, call in former:
        call()
    assert room.departures == 1
    room.turns.wait()
    assert room.departures == 2


def test_nobody_waits_for_a_slow_client(room: Room) -> None:
    room.group.began("slow")
    room.time += FRESH_SECONDS * 0.6
    room.group.began("quick")
    room.time += FRESH_SECONDS * 0.6
    assert room.group.expects_more()
    room.group.ended("quick")
    assert not room.group.expects_more()
    room.departure.gathered()
    room.turns.end()
    assert room.departures == 1
    room.group.ended("slow")
    room.group.ended("slow")
    room.group.ended("nobody")
