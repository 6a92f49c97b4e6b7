"""The suppression list: who is refused, for how long, and what others change."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailserver.policy import suppressions
from mailserver.policy.suppressions import FILE_NAME, Suppressions, clear, listed
from mailserver.values.account import Account, Elsewhere
from mailserver.values.address import Address
from mailserver.values.session import RecipientFacts, SessionFacts, TransactionFacts

ADA, BOB, GONE = Address("Ada", "a.test"), Address("bob", "a.test"), Address("gone", "B.test")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def kept(tmp_path: Path, clock: Clock) -> Iterator[Suppressions]:
    one = Suppressions(tmp_path / FILE_NAME, 600.0, clock)
    one.open()
    yield one
    one.close()


def facts(account: Address | None, path: Address = GONE) -> RecipientFacts:
    session = SessionFacts("submission", "192.0.2.1", 1)
    session.account = Account(account) if account else None
    return RecipientFacts(TransactionFacts(session), path, Elsewhere(path))


def test_an_account_is_refused_what_failed_for_it_and_others_are_not(kept: Suppressions) -> None:
    assert kept.suppressed(facts(ADA)) is None
    kept.add([ADA], GONE, "5.1.1", "550 no such user")
    refusal = kept.suppressed(facts(ADA, Address("Gone", "b.TEST")))
    assert refusal is not None
    assert refusal.text.startswith("550 5.1.1 <Gone@b.TEST>: your earlier message")
    assert kept.suppressed(facts(BOB)) is None
    assert kept.suppressed(facts(None)) is None
    assert kept.suppressed(facts(ADA, Address("other", "b.test"))) is None


def test_it_ends(kept: Suppressions, clock: Clock, tmp_path: Path) -> None:
    kept.add([ADA], GONE, "5.1.1", "no")
    kept.write()
    clock.now += 599
    assert kept.is_suppressed(ADA, GONE)
    clock.now += 2
    assert not kept.is_suppressed(ADA, GONE)
    kept.add([ADA], BOB, "5.1.1", "no")
    kept.write()  # which also removes what is over
    assert [one.address for one in listed(tmp_path / FILE_NAME, 0.0)] == ["bob@a.test"]


def test_it_survives_a_restart_and_is_heard_of_by_other_workers(
    kept: Suppressions, tmp_path: Path, clock: Clock
) -> None:
    other = Suppressions(tmp_path / FILE_NAME, 600.0, clock)
    other.open()
    kept.add([ADA, BOB], GONE, "5.1.2", "x\r\ny")
    kept.write()
    assert not other.is_suppressed(ADA, GONE)
    other.write()
    assert other.is_suppressed(ADA, GONE)
    assert other.is_suppressed(BOB, GONE)
    other.close()
    (one,) = listed(tmp_path / FILE_NAME, clock.now, ADA)
    assert (one.account, one.address, one.status, one.until) == ("ada@a.test", "gone@b.test", "5.1.2", 1600.0)
    assert one.reason.isprintable()


def test_what_a_command_clears_is_heard_of(kept: Suppressions, tmp_path: Path, clock: Clock) -> None:
    kept.add([ADA, BOB], GONE, "5.1.1", "no")
    kept.write()
    assert clear(tmp_path / FILE_NAME, ADA, [GONE]) == 1
    kept.write()
    assert not kept.is_suppressed(ADA, GONE)
    assert kept.is_suppressed(BOB, GONE)
    assert clear(tmp_path / FILE_NAME, None, []) == 1
    assert clear(tmp_path / FILE_NAME, None, []) == 0
    assert clear(tmp_path / "nowhere", None, []) == 0
    assert listed(tmp_path / "nowhere", 0.0) == []


def test_no_question_asks_the_database(kept: Suppressions, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.add([ADA], GONE, "5.1.1", "no")
    monkeypatch.setattr(kept, "_db", None)
    assert kept.suppressed(facts(ADA)) is not None


def test_what_cannot_be_written_is_written_later(kept: Suppressions, tmp_path: Path, clock: Clock) -> None:
    assert kept._db is not None
    kept._db.execute("PRAGMA busy_timeout = 1")
    blocker = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    kept.add([ADA], GONE, "5.1.1", "no")
    with pytest.raises(sqlite3.OperationalError):
        kept.write()
    blocker.execute("ROLLBACK")
    blocker.close()
    kept.write()
    assert len(listed(tmp_path / FILE_NAME, clock.now)) == 1


def test_the_list_is_bounded(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suppressions, "_PRUNE", suppressions._PRUNE.replace(str(suppressions.MOST), "3"))
    kept = Suppressions(tmp_path / FILE_NAME, 600.0, clock)
    kept.open()
    for n in range(10):
        clock.now += 1
        kept.add([ADA], Address(f"u{n}", "b.test"), "5.1.1", "no")
    kept.write()
    kept.close()
    left = [one.address for one in listed(tmp_path / FILE_NAME, clock.now)]
    assert left[:3] == ["u9@b.test", "u8@b.test", "u7@b.test"]
    assert len(left) <= 4
