"""The history of POP3 on the disk, and the times between log-ins."""

from dataclasses import replace
from pathlib import Path

import pytest

from mailserver.retrieve import history
from mailserver.retrieve.history import History, Visit, visits_of
from mailserver.retrieve.login_times import LoginTimes

ADA = "ada@example.test"
VISIT = Visit(1.5, ADA, "192.0.2.1", True, "Logged out", 300, 2, ["a", "b"], 1, ["a"])


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "history"
    assert visits_of(path, ADA, 10) == []
    kept = History(path)
    kept.add(VISIT)
    kept.add(replace(VISIT, user="bob@example.test"))
    kept.write()
    kept.add(replace(VISIT, ended=2.5))
    kept.write()
    kept.write()
    assert visits_of(path, ADA, 10) == [replace(VISIT, ended=2.5), VISIT]
    assert visits_of(path, ADA, 1) == [replace(VISIT, ended=2.5)]
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST_SESSIONS", 3)
    monkeypatch.setattr(history, "MOST_MESSAGES", 1)
    kept = History(tmp_path / "history")
    for n in range(5):
        kept.add(replace(VISIT, ended=float(n)))
    kept.write()
    kept.add(replace(VISIT, ended=5.0))
    kept.write()
    found = visits_of(tmp_path / "history", ADA, 10)
    assert [visit.ended for visit in found] == [5.0, 4.0, 3.0]
    assert (found[0].fetched_count, found[0].fetched) == (2, ["a"])


def test_a_disk_that_fails_loses_nothing(tmp_path: Path) -> None:
    kept = History(tmp_path / "absent" / "history")
    kept.add(VISIT)
    with pytest.raises(FileNotFoundError):
        kept.write()
    (tmp_path / "absent").mkdir()
    kept.write()
    assert len(visits_of(tmp_path / "absent" / "history", ADA, 10)) == 1


def test_log_ins_wait_for_each_other_over_restarts(tmp_path: Path) -> None:
    now = 1_000_000.0

    def may(name: str) -> bool:
        return LoginTimes(tmp_path / "logins", 60.0, lambda: now).may_log_in(name)

    assert may(ADA)
    now += 59
    assert not may(ADA)
    assert may("bob@example.test")
    now += 1  # what was refused did not count
    assert may(ADA)
    now -= 5000  # the clock is set back
    assert may(ADA)


def test_a_file_that_is_made_in_this_moment_holds_no_sessions_yet(tmp_path: Path) -> None:
    (tmp_path / "history.sqlite").touch()
    assert visits_of(tmp_path / "history.sqlite", "ada@a.test", 5) == []
