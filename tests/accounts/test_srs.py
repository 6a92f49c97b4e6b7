"""SRS: there and back, through two forwarders, with time, tampering and lost case."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailserver.accounts.srs import Srs
from mailserver.values.address import Address

DAY = 86400.0
SENDER = Address("ada", "example.test")


class Clock:
    now = 20_000 * DAY

    def __call__(self) -> float:
        return self.now


def srs(key: bytes = b"k" * 32, clock: Clock | None = None) -> Srs:
    return Srs(lambda: key, clock or Clock())


def test_there_and_back() -> None:
    path = srs().rewritten(SENDER, "a.test")
    assert path.domain == "a.test"
    assert path.local.startswith("SRS0=")
    assert path.local.endswith("=example.test=ada")
    assert srs().sender_behind(path) == SENDER
    # Some servers lower all of it, and the name comes back as it came.
    lowered = Address(path.local.lower(), "a.test")
    assert srs().sender_behind(lowered) == SENDER


@given(st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), min_size=1, max_size=40))
def test_every_local_part_comes_back(local: str) -> None:
    sender = Address(local, "example.test")
    found = srs().sender_behind(srs().rewritten(sender, "a.test"))
    if local[:4].upper() not in ("SRS0", "SRS1"):
        assert found == sender


def test_two_forwarders_make_the_path_no_longer_each_time() -> None:
    first, second, third = srs(b"1" * 32), srs(b"2" * 32), srs(b"3" * 32)
    one = first.rewritten(SENDER, "a.test")
    two = second.rewritten(one, "b.test")
    three = third.rewritten(two, "c.test")
    assert two.local.startswith("SRS1=")
    assert len(three.local) == len(two.local)
    # Back in one step to the first forwarder, who knows the sender.
    assert third.sender_behind(three) == one
    assert second.sender_behind(two) == one
    assert first.sender_behind(one) == SENDER


def test_time_runs_out() -> None:
    clock = Clock()
    path = srs(clock=clock).rewritten(SENDER, "a.test")
    clock.now += 21 * DAY
    assert srs(clock=clock).sender_behind(path) == SENDER
    clock.now += DAY
    assert srs(clock=clock).sender_behind(path) is None


@pytest.mark.parametrize(
    "local",
    [
        "SRS0=AAAAAA=AA=example.test=ada",
        "SRS0=",
        "SRS0=AAAAAA=AA=example.test=",
        "SRS0",
        "SRS1=AAAAAA=b.test==AAAAAA=AA=example.test=ada",
        "SRS1=AAAAAA==",
        "ada",
        "srs",
        "",
    ],
)
def test_what_we_never_made_leads_nowhere(local: str) -> None:
    assert srs().sender_behind(Address(local, "a.test")) is None


def test_nobody_makes_one_for_another_sender() -> None:
    path = srs().rewritten(SENDER, "a.test")
    for local in (path.local.replace("ada", "eve"), path.local.replace("example", "other")):
        assert srs().sender_behind(Address(local, "a.test")) is None
    assert srs(b"x" * 32).sender_behind(path) is None
