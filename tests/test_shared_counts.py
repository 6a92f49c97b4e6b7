"""Counts that worker processes keep together: seen by all, each its own, and begun anew by who comes back."""

from pathlib import Path

import pytest

from mailserver.assembly.sharing import counts_of, share_of
from mailserver.config import Settings
from mailserver.config.routes import RouteSettings
from mailserver.config.settings import Relay
from mailserver.connections import ConnectionLimits, Connections
from mailserver.listeners import Place
from mailserver.policy.rates import ClientRates
from mailserver.shared_counts import LATE_SECONDS, MESSAGES, RECIPIENTS, SharedCounts

A, B = "192.0.2.1", "192.0.2.2"


def workers(tmp_path: Path, count: int = 2) -> list[SharedCounts]:
    found = [SharedCounts(tmp_path / "counts", number, count) for number in range(count)]
    for one in found:
        one.open()
    return found


def test_each_sees_what_the_others_count(tmp_path: Path) -> None:
    one, two, three = workers(tmp_path, 3)
    one.connected(A, 1)
    two.connected(A, 1)
    two.connected(B, 1)
    assert (one.connections(A), two.connections(A), three.connections(A)) == (1, 1, 2)
    assert (one.all_connections(), three.all_connections()) == (2, 3)
    two.connected(A, -1)
    assert three.connections(A) == 1
    one.count(MESSAGES, A, 7)
    one.count(RECIPIENTS, A, 7)
    one.count(RECIPIENTS, A, 7)
    assert (two.counted(MESSAGES, A, 7), two.counted(RECIPIENTS, A, 7)) == (1, 2)
    assert (one.counted(MESSAGES, A, 7), two.counted(MESSAGES, B, 7)) == (0, 0)


def test_a_worker_is_busier_that_has_accepted_clearly_more_of_late(tmp_path: Path) -> None:
    time = [7.0]
    one, two, three = (SharedCounts(tmp_path / "counts", number, 3, lambda: time[0]) for number in range(3))
    for worker in (one, two, three):
        worker.open()
    for _ in range(3):
        one.took()
    assert not one.is_busier()
    one.took()
    assert one.is_busier()
    assert not two.is_busier()
    for _ in range(8):
        two.took()
        three.took()
    assert not one.is_busier()
    for _ in range(10):
        one.took()
    assert one.is_busier()
    time[0] += LATE_SECONDS
    assert not one.is_busier()
    one.connected(A, 1)
    assert one.all_connections() == 0
    assert two.all_connections() == 1
    one.close()
    one.took()
    assert not one.is_busier()


def test_a_minute_ends(tmp_path: Path) -> None:
    one, two = workers(tmp_path)
    one.connected(A, 1)
    one.count(MESSAGES, A, 7)
    assert two.counted(MESSAGES, A, 8) == 0
    one.count(MESSAGES, B, 8)
    assert (two.counted(MESSAGES, A, 8), two.counted(MESSAGES, B, 8)) == (0, 1)
    assert two.connections(A) == 1


def test_who_comes_back_begins_anew_and_disturbs_nobody(tmp_path: Path) -> None:
    one, two = workers(tmp_path)
    one.connected(A, 1)
    two.connected(A, 1)
    again = SharedCounts(tmp_path / "counts", 0, 2)  # the first was killed
    again.open()
    assert (again.connections(A), two.connections(A)) == (1, 0)
    again.connected(A, 1)
    assert two.connections(A) == 1
    again.close()
    again.close()
    again.connected(A, -1)
    assert two.connections(A) == 0


def test_the_number_of_workers_may_change(tmp_path: Path) -> None:
    workers(tmp_path, 4)[3].connected(A, 1)
    one, _ = workers(tmp_path, 2)
    assert one.connections(A) == 0
    one, *_ = workers(tmp_path, 5)
    assert one.connections(A) == 0


def test_a_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"precious")
    (tmp_path / "counts").symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="counts"):
        workers(tmp_path)
    assert (tmp_path / "other").read_bytes() == b"precious"


def test_connections_are_limited_together(tmp_path: Path) -> None:
    rooms = [Connections(ConnectionLimits(10, 3), shared=one) for one in workers(tmp_path)]
    rooms[0].add(A)
    rooms[0].add(A)
    assert rooms[1].objection(A) == ""
    rooms[1].add(A)
    for room in rooms:
        assert "your network" in room.objection(A)
        assert room.objection(B) == ""
    for number in range(2):
        rooms[1].add(f"198.51.100.{number}")
    assert rooms[1].pressed
    for number in range(5):
        rooms[0].add(f"203.0.113.{number}")
    for room in rooms:
        assert room.objection(B) == "Too many connections"
    rooms[0].remove(A)
    assert rooms[1].objection(B) == ""


def test_rates_are_limited_together(tmp_path: Path) -> None:
    one, two = (
        ClientRates(3, 2, lambda: 0.0, lambda: False, shared, wall=lambda: 600.0)
        for shared in workers(tmp_path)
    )
    assert [one.message(A), two.message(A), one.message(A)] == [None, None, None]
    for rates in (one, two):
        refused = rates.message(A)
        assert refused is not None
        assert refused.code == 450
        assert rates.message(B) is None
    assert two.recipient(A) is None
    assert one.recipient(A) is None
    assert two.recipient(A) is not None


def test_one_process_alone_shares_nothing(tmp_path: Path) -> None:
    settings = Settings(hostname="mx.example.test", state=tmp_path)
    assert counts_of(settings, Place()) is None
    assert share_of(settings, 1) is settings
    assert counts_of(settings, Place(1, 2)) is not None


def test_limits_towards_other_servers_are_divided() -> None:
    routes: dict[str, str | RouteSettings] = {
        "a.test": RouteSettings(concurrency=5),
        "b.test": "smtp://10.0.0.5:25",
        "c.test": RouteSettings(),
    }
    relay = Relay(concurrency=20, messages_per_minute=30, routes=routes)
    part = share_of(Settings(hostname="mx.example.test", relay=relay), 4).relay
    assert (part.concurrency, part.messages_per_minute) == (5, 8)
    assert part.routes == {
        "a.test": RouteSettings(concurrency=2),
        "b.test": "smtp://10.0.0.5:25",
        "c.test": RouteSettings(),
    }
