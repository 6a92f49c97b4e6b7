"""What accounts send is counted: limits, restarts, workers that share, and faults of the disk."""

import sqlite3
from pathlib import Path

import pytest

from mailserver.policy import usage as module
from mailserver.policy.usage import Usage, UsageLimits, end_hold, held_accounts
from mailserver.values.address import Address

ADA = "ada@a.test"
LIMITS = UsageLimits(messages_per_hour=3, recipients_per_hour=10, new_recipients_per_day=6)


class Time:
    def __init__(self) -> None:
        self.seconds = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Time:
    return Time()


def opened(tmp_path: Path, clock: Time, limits: UsageLimits = LIMITS) -> Usage:
    made = Usage(tmp_path / "usage.sqlite", limits, clock)
    made.open()
    made.load(ADA)
    return made


def to(*names: str) -> list[Address]:
    return [Address(name, "b.test") for name in names]


def test_messages_in_an_hour(tmp_path: Path, clock: Time) -> None:
    usage = opened(tmp_path, clock)
    assert [usage.charge(ADA, to("x")) for _ in range(3)] == [""] * 3
    assert usage.charge(ADA, to("x")) == "ada@a.test has sent more than 3 messages in an hour"


def test_an_hour_passes(tmp_path: Path, clock: Time) -> None:
    usage = opened(tmp_path, clock)
    for _ in range(20):
        assert usage.charge(ADA, to("x")) == ""
        clock.seconds += 1300


def test_recipients_count_once_in_a_message(tmp_path: Path, clock: Time) -> None:
    usage = opened(tmp_path, clock, UsageLimits(recipients_per_hour=3))
    assert usage.charge(ADA, to("x", "X", "y")) == ""
    assert "more than 3 recipients in an hour" in usage.charge(ADA, to("x", "y"))


def test_new_recipients_in_a_day(tmp_path: Path, clock: Time) -> None:
    usage = opened(tmp_path, clock)
    assert usage.charge(ADA, to("a", "b", "c")) == ""
    clock.seconds += 5 * 3600
    assert usage.charge(ADA, to("a", "b", "c", "d", "e", "f")) == ""
    clock.seconds += 5 * 3600
    assert usage.charge(ADA, to("a")) == ""
    assert "more than 6 new recipients in a day" in usage.charge(ADA, to("g"))


def test_zero_is_no_limit(tmp_path: Path, clock: Time) -> None:
    usage = opened(tmp_path, clock, UsageLimits())
    assert not any(usage.charge(ADA, to(f"x{n}")) for n in range(500))


def test_a_hold_stays_until_it_is_ended(tmp_path: Path, clock: Time) -> None:
    usage = opened(tmp_path, clock)
    for _ in range(4):
        usage.charge(ADA, to("x"))
    clock.seconds += 10 * 86400
    reason = usage.charge(ADA, to("x"))
    assert reason
    usage.write()
    assert held_accounts(tmp_path / "usage.sqlite") == {ADA: reason}
    assert end_hold(tmp_path / "usage.sqlite", ADA)
    assert not end_hold(tmp_path / "usage.sqlite", ADA)
    usage.write()
    assert usage.charge(ADA, to("x")) == ""


def test_one_hold_is_news_once(tmp_path: Path, clock: Time) -> None:
    usage = opened(tmp_path, clock)
    for _ in range(3):
        usage.charge(ADA, to("x"))
    assert not usage.is_news(ADA)
    usage.charge(ADA, to("x"))
    assert usage.is_news(ADA)
    usage.charge(ADA, to("x"))
    assert not usage.is_news(ADA)


def test_counts_survive_a_restart(tmp_path: Path, clock: Time) -> None:
    usage = opened(tmp_path, clock)
    for _ in range(3):
        usage.charge(ADA, to("x"))
    usage.close()
    usage = opened(tmp_path, clock)
    assert usage.charge(ADA, to("x")) != ""
    usage.close()
    usage = opened(tmp_path, clock)
    assert usage.charge(ADA, to("x")) != ""
    assert not usage.is_news(ADA)


def test_workers_hear_of_each_other(tmp_path: Path, clock: Time) -> None:
    one, two = opened(tmp_path, clock), opened(tmp_path, clock)
    for usage in (one, two, one):
        assert usage.charge(ADA, to("x")) == ""
    one.write()
    two.write()
    assert two.charge(ADA, to("x")) != ""
    two.write()
    one.write()
    assert one.charge(ADA, to("x")) != ""
    assert not one.is_news(ADA)


def test_what_could_not_be_written_is_written_later(tmp_path: Path, clock: Time) -> None:
    usage = opened(tmp_path, clock)
    usage.charge(ADA, to("x"))
    other = sqlite3.connect(tmp_path / "usage.sqlite", isolation_level=None)
    usage._opened().execute("PRAGMA busy_timeout = 0")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError):
        usage.write()
    usage.charge(ADA, to("x"))
    other.execute("COMMIT")
    usage.write()
    usage.write()
    assert other.execute("SELECT sum(messages), sum(fresh) FROM usage").fetchall() == [(2, 1)]
    other.close()


def test_memory_is_bounded(tmp_path: Path, clock: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ACCOUNTS", 2)
    usage = opened(tmp_path, clock)
    usage.charge(ADA, to("x"))
    for name in ("b", "c"):
        usage.load(name)
    assert usage.is_loaded(ADA)  # it has something that is not written
    usage.write()
    usage.load("d")
    assert [name for name in (ADA, "b", "c", "d") if usage.is_loaded(name)] == ["c", "d"]


def test_the_oldest_of_too_many_recipients_are_forgotten(
    tmp_path: Path, clock: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_KNOWN", 3)
    usage = opened(tmp_path, clock, UsageLimits())
    for name in "abcde":
        usage.charge(ADA, to(name))
        usage.write()
    db = sqlite3.connect(tmp_path / "usage.sqlite")
    assert db.execute("SELECT count(*) FROM known").fetchone() == (3,)
    db.close()


def test_commands_where_nothing_was_ever_sent(tmp_path: Path) -> None:
    assert held_accounts(tmp_path / "usage.sqlite") == {}
    assert not end_hold(tmp_path / "usage.sqlite", ADA)
    assert not (tmp_path / "usage.sqlite").exists()
