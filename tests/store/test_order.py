"""Sorting in parts gives what sorting at once gives."""

from __future__ import annotations

import random

import pytest

from mailserver.store.order import in_order


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 50_000])
@pytest.mark.parametrize("values", [3, 10**9])
def test_the_order_is_that_of_sorted(size: int, values: int) -> None:
    chance = random.Random(size)
    items = [(chance.randrange(values), str(n)) for n in range(size)]
    assert list(in_order(items)) == sorted(items)
    assert list(in_order(sorted(items))) == sorted(items)
