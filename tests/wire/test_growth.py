"""No hostile octets cost more than their length: 16 times as many cost about 16 times as much."""

from __future__ import annotations

import pytest

from tests.fuzz.growth import CASES, SMALL, seconds


@pytest.mark.parametrize("name", CASES)
def test_time_grows_as_the_octets_do(name: str) -> None:
    """Where time grew with the square it would be 256 times as much. Processor time, not the clock's."""
    small, large = SMALL, 16 * SMALL
    if seconds(name, small, 1) > 0.002:
        small, large = SMALL // 8, 2 * SMALL
    # A few tries: a neighbour that empties the processor's cache is no proof of anything.
    assert any(seconds(name, large, 2) < 64 * seconds(name, small) for _ in range(3)), name
