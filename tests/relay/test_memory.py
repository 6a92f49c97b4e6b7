"""What is remembered of single addresses, on a Clock."""

import pytest
from twisted.internet.task import Clock

from mailserver.relay.memory import (
    CLEAR_SECONDS,
    LONGEST_PAUSE,
    QUICK_PAUSE,
    SLOW_PAUSE,
    HostMemory,
    varied,
)
from mailserver.relay.sessions import Target

TARGET = Target("mx.b.test", "192.0.2.1", 25)


def middle() -> float:
    return 0.5


def test_a_slow_failure_is_remembered_longer_each_time() -> None:
    clock = Clock()
    memory = HostMemory(clock, middle)
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
    memory = HostMemory(Clock(), middle)
    memory.failed(TARGET, 30, "dead")
    memory.worked(TARGET)
    assert memory.reason_to_avoid(TARGET) == ""


def test_an_operator_has_failures_forgotten() -> None:
    memory = HostMemory(Clock(), middle)
    other = Target("mx.c.test", "192.0.2.2", 25)
    for target in (TARGET, other):
        memory.failed(target, 30, "dead")
        memory.tls_failed(target)
    assert memory.forget(TARGET.address, TARGET.port) == 1
    assert (memory.reason_to_avoid(TARGET), memory.tls_fails(TARGET)) == ("", False)
    assert memory.reason_to_avoid(other) == "dead"
    assert memory.forget(TARGET.address, TARGET.port) == 0
    assert memory.forget() == 1
    assert memory.reason_to_avoid(other) == ""


def test_hosts_that_cannot_do_tls() -> None:
    clock = Clock()
    memory = HostMemory(clock, middle)
    assert not memory.tls_fails(TARGET)
    memory.tls_failed(TARGET)
    assert memory.tls_fails(TARGET)
    assert memory.reason_to_avoid(TARGET) == ""
    clock.advance(CLEAR_SECONDS)
    assert not memory.tls_fails(TARGET)


def test_pauses_vary_by_a_fifth() -> None:
    assert (varied(100, lambda: 0.0), varied(100, lambda: 1.0)) == (80.0, pytest.approx(120.0))


def test_what_is_known_in_words() -> None:
    memory = HostMemory(Clock(), middle)
    assert memory.known(TARGET) == ""
    memory.failed(TARGET, 30, "Connection timed out")
    memory.tls_failed(TARGET)
    assert memory.known(TARGET).startswith("left alone for 60 s: Connection timed out; spoken to in clear")
