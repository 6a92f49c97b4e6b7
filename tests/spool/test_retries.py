"""The schedule: intervals, jitter, the last attempt, the warning."""

from __future__ import annotations

import pytest

from mailserver.spool.retries import RetrySchedule

HOUR, DAY = 3600.0, 86400.0
INTERVALS = (300.0, 600.0, 1200.0)


def schedule(vary: float = 0.5) -> RetrySchedule:
    return RetrySchedule(INTERVALS, 4 * HOUR, 5 * DAY, lambda: vary)


@pytest.mark.parametrize(
    ("attempts", "interval"), [(0, 300), (1, 300), (2, 600), (3, 1200), (4, 1200), (99, 1200)]
)
def test_intervals_grow_and_the_last_repeats(attempts: int, interval: float) -> None:
    assert schedule()(1000.0, attempts, 2000.0) == pytest.approx(2000.0 + interval)


@pytest.mark.parametrize(("vary", "factor"), [(0.0, 0.8), (0.5, 1.0), (1.0, 1.2)])
def test_each_interval_varies_by_a_fifth(vary: float, factor: float) -> None:
    assert schedule(vary)(0.0, 1, 0.0) == pytest.approx(300 * factor)


def test_random_by_default() -> None:
    default = RetrySchedule(INTERVALS, HOUR, DAY)
    times = {default(arrived * 1e-3, 1, 0.0) for arrived in range(50)}
    assert len(times) > 1
    assert all(time is not None and 240 <= time <= 360 for time in times)


def test_recipients_of_one_attempt_come_back_together() -> None:
    numbers = iter([0.1, 0.9, 0.3])
    varying = RetrySchedule(INTERVALS, HOUR, DAY, lambda: next(numbers))
    together = {varying(5.0, 1, 50.0) for _ in range(10)}
    assert len(together) == 1
    assert varying(5.0, 2, 50.0) not in together
    assert varying(6.0, 1, 50.0) not in together


def test_the_last_attempt_is_made_when_the_time_is_up() -> None:
    end = 1000 + 5 * DAY
    assert schedule()(1000.0, 50, end - 1) == end
    assert schedule()(1000.0, 51, end) is None
    assert schedule()(1000.0, 1, end + DAY) is None
    assert schedule().gives_up_at(1000.0) == end


def test_every_message_has_an_end() -> None:
    now: float | None = 0.0
    attempts = 0
    while now is not None:
        attempts += 1
        last, now = now, schedule(1.0)(0.0, attempts, now)
    assert last == 5 * DAY
    assert attempts == 1 + 2 + -(-(5 * DAY - 1.2 * 900) // 1440)


def test_a_clock_that_went_back_gives_no_storm() -> None:
    assert schedule()(1000 * DAY, 3, 10.0) == pytest.approx(10.0 + 1200)


def test_one_warning() -> None:
    assert not schedule().warn_due(0.0, 4 * HOUR - 1, False)
    assert schedule().warn_due(0.0, 4 * HOUR, False)
    assert not schedule().warn_due(0.0, 9 * HOUR, True)


def test_a_schedule_needs_an_interval() -> None:
    with pytest.raises(ValueError, match="one interval"):
        RetrySchedule((), HOUR, DAY)
