"""Every target of the fuzzer, fed by Hypothesis: some in each run, many with ``-m long``.

The million are fed by ``python -m tests.fuzz``, which is quicker and follows the coverage.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS
from tests.fuzz.words import WORDS

EACH, MANY = 25, 10_000
"""Inputs of a target."""


def inputs(name: str) -> st.SearchStrategy[bytes]:
    """Octets that choose, then the target's words and anything else."""
    parts = st.lists(st.sampled_from(WORDS[name]) | st.binary(max_size=20), max_size=30).map(b"".join)
    return st.tuples(st.binary(min_size=3, max_size=3), parts).map(b"".join)


def feed(name: str, examples: int) -> None:
    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(inputs(name))
    def fed(data: bytes) -> None:
        TARGETS[name](data)

    fed()


def test_every_target_has_words() -> None:
    assert list(TARGETS) == list(WORDS)


@pytest.mark.parametrize("name", TARGETS)
def test_events_or_errors_of_the_protocol(name: str) -> None:
    feed(name, EACH)


@pytest.mark.long
@pytest.mark.parametrize("name", TARGETS)
def test_many_inputs(name: str) -> None:
    feed(name, MANY)
