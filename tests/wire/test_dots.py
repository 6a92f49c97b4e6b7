"""Dot-stuffing: whole, cut anywhere, and with line ends that should not be there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailserver.wire.dots import END_OF_DATA, DotStuffer, clean_dot_stuffed, dot_stuffed

PIECES = st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"..", b"a", b"\x00", b"\r\n.\r\n"]))


def fed(chunks: list[bytes]) -> bytes:
    stuffer = DotStuffer()
    return b"".join([stuffer.feed(chunk) for chunk in chunks]) + stuffer.finish()


def unstuffed(wire: bytes) -> bytes:
    """What a reader by the letter of RFC 5321 §4.5.2 gets back."""
    assert wire.endswith(b".\r\n")
    lines = wire.split(b"\r\n")
    assert lines[-2:] == [b".", b""]
    assert b"." not in lines[:-2], "data ended too early"
    return b"".join([line.removeprefix(b".") + b"\r\n" for line in lines[:-2]])


@pytest.mark.parametrize(
    ("content", "wire"),
    [
        (b"", b".\r\n"),
        (b"a\r\n", b"a\r\n.\r\n"),
        (b"a", b"a\r\n.\r\n"),
        (b".", b"..\r\n.\r\n"),
        (b".\r\n.\r\n", b"..\r\n..\r\n.\r\n"),
        (b"..a\r\n", b"...a\r\n.\r\n"),
        (b"a.b\r\n", b"a.b\r\n.\r\n"),
        (b"\r\n.\r\n.\r\n", b"\r\n..\r\n..\r\n.\r\n"),
        # A stray CR or LF is a space, at every place that smuggling has used.
        (b"a\n.\nb\r\n", b"a . b\r\n.\r\n"),
        (b"a\n.\r\nb\r\n", b"a .\r\nb\r\n.\r\n"),
        (b"a\r\n.\nb\r\n", b"a\r\n.. b\r\n.\r\n"),
        (b"a\r.\rb", b"a . b\r\n.\r\n"),
        (b"a\r\r\n.\r\r\n", b"a \r\n.. \r\n.\r\n"),
        (b"a\r", b"a \r\n.\r\n"),
        (b"\r", b" \r\n.\r\n"),
        (b"a\r\n\r", b"a\r\n \r\n.\r\n"),
    ],
)
def test_stuffed_whole_and_byte_by_byte(content: bytes, wire: bytes) -> None:
    assert dot_stuffed(content) == wire
    assert fed([content[n : n + 1] for n in range(len(content))]) == wire


@given(PIECES, st.integers(1, 9))
def test_the_cuts_do_not_matter(pieces: list[bytes], step: int) -> None:
    content = b"".join(pieces)
    assert fed(pieces) == dot_stuffed(content)
    assert fed([content[n : n + step] for n in range(0, len(content), step)]) == dot_stuffed(content)


@given(PIECES)
def test_only_crlf_ends_a_line_and_nothing_ends_early(pieces: list[bytes]) -> None:
    content = b"".join(pieces)
    wire = dot_stuffed(content)
    assert wire.count(b"\r") == wire.count(b"\n") == wire.count(b"\r\n")
    read_back = unstuffed(wire)
    assert len(read_back) == len(content) + (0 if not content or content.endswith(b"\r\n") else 2)


@given(st.lists(st.sampled_from([b"\r\n", b".", b"x", b"\x0b", b"\x85"])))
def test_canonical_content_comes_back_unchanged(pieces: list[bytes]) -> None:
    content = b"".join([*pieces, b"\r\n"])
    assert unstuffed(dot_stuffed(content)) == content
    assert clean_dot_stuffed(content) + END_OF_DATA == dot_stuffed(content)


def test_an_empty_message() -> None:
    assert clean_dot_stuffed(b"") + END_OF_DATA == dot_stuffed(b"")


def test_a_stuffer_can_be_used_again() -> None:
    stuffer = DotStuffer()
    stuffer.feed(b"a\r")
    stuffer.finish()
    assert stuffer.feed(b".") + stuffer.finish() == b"..\r\n.\r\n"
