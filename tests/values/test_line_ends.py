"""Line ends, cheaply: the same as the plain words for it, on any octets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mailserver.values.line_ends import count_lf, lf_text

PIECES = st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b"a", b"\r\r\n", b"."])).map(b"".join)


@given(PIECES)
def test_text_has_lf_for_crlf_or_is_none(octets: bytes) -> None:
    pairs = octets.count(b"\r\n")
    is_canonical = octets.count(b"\r") == pairs == octets.count(b"\n")
    assert lf_text(octets) == (octets.replace(b"\r\n", b"\n") if is_canonical else None)


@given(PIECES)
def test_line_feeds_are_counted(octets: bytes) -> None:
    assert count_lf(octets) == octets.count(b"\n")
