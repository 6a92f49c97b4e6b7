"""Lengths of time and amounts of octets."""

from __future__ import annotations

import pytest

from mailserver.values.units import duration_text, octets_from, octets_text, seconds_from


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", 300),
        ("1h20m", 4800),
        ("5d", 432000),
        ("0.5s", 0.5),
        ("1d2h3m4s", 93784),
        ("90s", 90),
        ("0s", 0),
    ],
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert seconds_from(text) == seconds
    assert seconds_from(duration_text(seconds)) == seconds


@pytest.mark.parametrize(
    "text", ["", "5", "m", "5 m", "5m5m", "20m1h", "-5m", "5M", "1.5h", "٥m", "1e3s", "infs"]
)
def test_not_lengths_of_time(text: str) -> None:
    with pytest.raises(ValueError, match="length of time"):
        seconds_from(text)


def test_lengths_of_time_for_people() -> None:
    assert [duration_text(n) for n in (0.25, 1, 59.9, 60, 4800, 432000, 90061)] == [
        "0.25s", "1s", "59.9s", "1m", "1h20m", "5d", "1d1h1m1s",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "octets"),
    [
        ("50 MiB", 52428800),
        ("64KiB", 65536),
        ("1.5 GiB", 1610612736),
        ("10 MB", 10**7),
        ("1 kb", 1000),
        ("7 B", 7),
    ],
)
def test_amounts(text: str, octets: int) -> None:
    assert octets_from(text) == octets


@pytest.mark.parametrize("text", ["", "50", "MiB", "-1 MiB", "1 MBit", "1  MiB", "0.3 B", "٥ MiB"])
def test_not_amounts(text: str) -> None:
    with pytest.raises(ValueError, match="octets"):
        octets_from(text)


def test_amounts_for_people() -> None:
    assert [octets_text(n) for n in (0, 1023, 1536, 50 * 2**20, 2**30)] == [
        "0 B", "1023 B", "1.5 KiB", "50 MiB", "1 GiB",
    ]  # fmt: skip
