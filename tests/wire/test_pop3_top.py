"""TOP's cutter: header, blank line, n lines; the same however the content is cut into chunks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailserver.wire.pop3_top import TopCutter

MESSAGE = b"A: 1\r\nB: 2\r\n\r\none\r\n\r\nthree"


def cut(pieces: list[bytes], lines: int) -> bytes:
    cutter, out = TopCutter(lines), b""
    for piece in pieces:
        out += cutter.feed(piece)
    return out + cutter.finish()


@pytest.mark.parametrize(
    ("lines", "end"),
    [
        (0, b"\r\n\r\n"),
        (1, b"\r\n\r\none\r\n"),
        (2, b"\r\n\r\none\r\n\r\n"),
        (3, b"\r\n\r\none\r\n\r\nthree"),
        (10**10, b"\r\n\r\none\r\n\r\nthree"),
    ],
)
def test_lines_of_the_body(lines: int, end: bytes) -> None:
    assert cut([MESSAGE], lines) == b"A: 1\r\nB: 2" + end


def test_an_empty_header() -> None:
    assert cut([b"\r\nbody\r\nmore\r\n"], 1) == b"\r\nbody\r\n"


def test_no_body() -> None:
    assert cut([b"A: 1\r\n"], 5) == b"A: 1\r\n"


def test_done_is_told_at_once() -> None:
    cutter = TopCutter(1)
    cutter.feed(b"A: 1\r\n\r\none\r")
    assert not cutter.is_done
    assert cutter.feed(b"\ntwo") == b"\r\n"
    assert cutter.is_done
    assert cutter.feed(b"three") == b""
    assert cutter.finish() == b""


def plainly(content: bytes, lines: int) -> bytes:
    """The same by the book, line by line."""
    parts = content.split(b"\r\n")
    kept: list[bytes] = []
    body = None
    for number, part in enumerate(parts):
        if body is not None and body >= lines:
            return b"\r\n".join([*kept, b""])
        kept.append(part)
        if body is not None:
            body += 1
        elif not part and number < len(parts) - 1:
            body = 0
    return b"\r\n".join(kept)


@given(
    st.lists(st.sampled_from([b"a", b"\r\n", b"\r", b"\n", b".", b"\r\n\r\n"]), max_size=20),
    st.integers(0, 6),
    st.data(),
)
def test_any_chunks(words: list[bytes], lines: int, data: st.DataObject) -> None:
    content = b"".join(words)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=5)))
    pieces = [content[a:b] for a, b in zip([0, *cuts], [*cuts, len(content)], strict=True)]
    assert cut(pieces, lines) == plainly(content, lines)
    assert cut([bytes([octet]) for octet in content], lines) == plainly(content, lines)
