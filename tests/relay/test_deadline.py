"""Limits that move: one timer, which looks again when it goes off."""

from twisted.internet.task import Clock

from mailserver.relay.deadline import Deadline


def test_a_limit_that_moves_on_is_not_met_and_costs_no_timer() -> None:
    clock, expired = Clock(), []
    deadline = Deadline(clock, lambda: expired.append(clock.seconds()))
    deadline.move(10)
    for second in range(1, 9):
        clock.advance(1)
        deadline.move(second + 10)
        assert [call.getTime() for call in clock.getDelayedCalls()] == [10]
    clock.pump([1] * 9)
    assert clock.seconds() == 17
    assert not expired
    clock.advance(1)
    assert expired == [18]
    assert not clock.getDelayedCalls()


def test_a_nearer_limit_is_met_in_its_time() -> None:
    clock, expired = Clock(), []
    deadline = Deadline(clock, lambda: expired.append(clock.seconds()))
    deadline.move(300)
    deadline.move(5)
    clock.advance(5)
    assert expired == [5]


def test_lifted_and_ended() -> None:
    clock, expired = Clock(), []
    deadline = Deadline(clock, lambda: expired.append(clock.seconds()))
    deadline.move(5)
    deadline.lift()
    clock.advance(6)
    assert not expired
    deadline.move(10)
    deadline.end()
    assert not clock.getDelayedCalls()
    clock.advance(6)
    assert not expired
