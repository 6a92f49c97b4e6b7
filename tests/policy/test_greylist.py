"""Greylisting: who waits, who has passed, and what a restart and another process know."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from mailserver.policy import greylist
from mailserver.policy.greylist import REMEMBERED, RETRY_WINDOW, Greylist, pair_key
from mailserver.values.account import Account, LocalUser
from mailserver.values.address import Address
from mailserver.values.reply import Reply
from mailserver.values.session import RecipientFacts, SessionFacts, TransactionFacts

ADA = Address("ada", "example.test")
CAROL = Address("carol", "elsewhere.test")


class Now:
    time = 1_000_000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def grey(tmp_path: Path, now: Now) -> Greylist:
    return Greylist(tmp_path / "greylist.sqlite", 300, now)


def asked(grey: Greylist, host: str = "192.0.2.1", to: Address = ADA, **session: object) -> Reply | None:
    facts = TransactionFacts(SessionFacts("smtp", host, 25, **session), CAROL)  # type: ignore[arg-type]
    return grey(RecipientFacts(facts, to, LocalUser(Account(to))))


def test_new_ones_wait_and_pass_for_a_month(grey: Greylist, now: Now) -> None:
    first = asked(grey)
    assert first is not None
    assert (first.code, first.enhanced) == (451, "4.7.1")
    now.time += 299
    assert asked(grey) is not None
    now.time += 1
    assert asked(grey, "192.0.2.77") is None  # a neighbour, as providers do
    now.time += REMEMBERED - 1
    assert asked(grey) is None
    now.time += REMEMBERED + 1
    assert asked(grey) is not None


def test_who_comes_too_late_begins_anew(grey: Greylist, now: Now) -> None:
    asked(grey)
    now.time += RETRY_WINDOW + 1
    assert asked(grey) is not None


def test_who_is_not_asked(grey: Greylist) -> None:
    assert asked(grey, account=Account(ADA)) is None
    assert asked(grey, trusted=True) is None
    assert asked(grey, exempt=True) is None
    assert asked(grey, to=Address("Postmaster", "example.test")) is None
    assert asked(grey) is not None


def test_a_restart_and_a_neighbour_process_know(tmp_path: Path, grey: Greylist, now: Now) -> None:
    other = Greylist(tmp_path / "greylist.sqlite", 300, now)
    other.write()
    asked(grey)
    grey.write()
    now.time += 300
    other.write()
    assert asked(other) is None
    other.write()
    later = Greylist(tmp_path / "greylist.sqlite", 300, now)
    later.write()
    now.time += RETRY_WINDOW + 1
    assert asked(later) is None


def test_the_disk_forgets_what_is_old(tmp_path: Path, grey: Greylist, now: Now) -> None:
    asked(grey)
    grey.write()
    now.time += RETRY_WINDOW + 1
    grey.write()
    rows = sqlite3.connect(tmp_path / "greylist.sqlite").execute("select count(*) from pair").fetchone()
    assert rows == (0,)


def test_what_could_not_be_written_is_written_later(tmp_path: Path, grey: Greylist, now: Now) -> None:
    asked(grey)
    (tmp_path / "greylist.sqlite").mkdir()
    with pytest.raises(sqlite3.Error):
        grey.write()
    (tmp_path / "greylist.sqlite").rmdir()
    grey.write()
    assert sqlite3.connect(tmp_path / "greylist.sqlite").execute("select count(*) from pair").fetchone() == (
        1,
    )


def test_memory_has_a_bound(grey: Greylist, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greylist, "MOST_PAIRS", 10)
    for n in range(50):
        asked(grey, f"10.0.{n}.1")
    assert len(grey._pairs) == 10


def test_keys() -> None:
    assert pair_key("192.0.2.7", "A.test") == "192.0.2.0/24 a.test"
    assert pair_key("2001:db8::7", "a.test") == "2001:db8::/64 a.test"
