"""Line ends and mboxrd quoting: the same however the octets are cut into pieces."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailserver.store.mboxrd import quoted, unquoted
from mailserver.store.octets import CrlfCount, canonical, crlf_octets, open_regular, pieces_of, to_crlf, to_lf

TEXT = st.lists(
    st.sampled_from([b"\r", b"\n", b"\r\n", b">", b"F", b"rom", b"From ", b"x", b"\n\n", b">From "]),
    max_size=12,
).map(b"".join)
CUTS = st.lists(st.integers(0, 40), max_size=6)


def cut(octets: bytes, places: list[int]) -> Iterator[bytes]:
    at = 0
    for place in sorted(places):
        yield octets[at:place]
        at = max(at, place)
    yield octets[at:]


@given(TEXT, CUTS)
def test_to_lf(octets: bytes, places: list[int]) -> None:
    assert b"".join(to_lf(cut(octets, places))) == octets.replace(b"\r\n", b"\n")


@given(TEXT, CUTS)
def test_to_crlf_and_its_two_counts(octets: bytes, places: list[int]) -> None:
    expected = re.sub(rb"(?<!\r)\n", b"\r\n", octets)
    if expected and not expected.endswith(b"\n"):
        expected += b"\r\n"
    assert b"".join(to_crlf(cut(octets, places))) == expected
    assert crlf_octets(octets) == len(expected)
    assert canonical(octets) == (None if re.search(rb"\r(?!\n)", octets) else expected)
    count = CrlfCount()
    for piece in cut(octets, places):
        count.add(piece)
    assert count.total == len(expected)


@given(TEXT, CUTS)
def test_quoting_and_its_reverse(octets: bytes, places: list[int]) -> None:
    expected = re.sub(rb"^(>*From )", rb">\1", octets, flags=re.MULTILINE)
    assert b"".join(quoted(cut(octets, places))) == expected
    assert b"".join(unquoted(cut(expected, places))) == octets


@given(TEXT, CUTS)
def test_unquoting_what_others_have_written(octets: bytes, places: list[int]) -> None:
    expected = re.sub(rb"^>(>*From )", rb"\1", octets, flags=re.MULTILINE)
    assert b"".join(unquoted(cut(octets, places))) == expected


def test_a_line_of_quotes_is_not_gathered() -> None:
    pieces = [b">" * 1000] * 50 + [b"From x\n"]
    out = list(quoted(pieces))
    assert max(map(len, out)) <= 1010
    assert b"".join(out) == b">" * 50_001 + b"From x\n"
    assert max(map(len, unquoted(pieces))) <= 1010


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 200_000)
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    for name in ("link", "fifo", "folder", "missing"):
        with pytest.raises(OSError):  # noqa: PT011 (the reason is each system's own)
            os.close(open_regular(str(tmp_path / name)))
    fd = open_regular(str(tmp_path / "file"))
    assert sum(map(len, pieces_of(fd, 10, 199_999))) == 199_989
    assert sum(map(len, pieces_of(fd, 199_000, 300_000))) == 1000
    os.close(fd)
