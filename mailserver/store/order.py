"""Long work in parts, so that other threads run meanwhile: one ``sorted`` keeps the interpreter to itself."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TypeVar

S = TypeVar("S", str, tuple[int, str])
V = TypeVar("V")

AT_ONCE = 2048
"""Messages that are looked at in one go: about a millisecond."""

_SAMPLED = 32
_PAUSE = 0.00005


def give_way() -> None:
    """Let other threads have the interpreter."""
    time.sleep(_PAUSE)


def in_parts(items: Sequence[V]) -> Iterator[Sequence[V]]:
    """Slices of ``AT_ONCE``.

    Between them the interpreter is given away: a thread that waits for it and does not get it asks
    again only after five milliseconds, for each system call that it makes.
    """
    if len(items) <= AT_ONCE:
        yield items
        return
    for start in range(0, len(items), AT_ONCE):
        yield items[start : start + AT_ONCE]
        time.sleep(_PAUSE)


def taken_in_parts(items: Iterator[V]) -> Iterator[list[V]]:
    """The same for what is not all there yet."""
    while part := list(islice(items, AT_ONCE)):
        yield part
        if len(part) == AT_ONCE:
            time.sleep(_PAUSE)


def in_order(items: Sequence[S]) -> list[S]:
    """What ``sorted`` gives, sorted in parts."""
    if len(items) <= AT_ONCE:
        return sorted(items)
    borders = sorted(items[::_SAMPLED])[AT_ONCE // _SAMPLED :: AT_ONCE // _SAMPLED]
    buckets: list[list[S]] = [[] for _ in range(len(borders) + 1)]
    for part in in_parts(items):
        for item in part:
            buckets[bisect_right(borders, item)].append(item)
    ordered: list[S] = []
    for bucket in buckets:
        bucket.sort()
        ordered += bucket
        time.sleep(_PAUSE)
    return ordered
