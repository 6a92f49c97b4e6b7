"""The line buffer: whole lines, bounded, the same however the octets are cut."""

from hypothesis import given
from hypothesis import strategies as st

from mailserver.wire.lines import LineBuffer, LineTooLong

LIMIT = 8


def longer(start: bytes) -> int:
    return 12 if start.startswith(b"AUTH") else LIMIT


def lines_of(pieces: list[bytes]) -> list[bytes | str]:
    buffer, found = LineBuffer(LIMIT, longer), []
    for piece in pieces:
        buffer.feed(piece)
        while True:
            try:
                line = buffer.next_line()
            except LineTooLong:
                found.append("too long")
                continue
            if line is None:
                break
            found.append(line)
        assert buffer.pending <= 13
    return found


def test_lines_end_in_lf_with_or_without_cr() -> None:
    assert lines_of([b"one\r\ntwo\nthr\ree\r\n\r\n\r\r\nleft"]) == [b"one", b"two", b"thr\ree", b"", b"\r"]


def test_the_limit_is_without_the_end() -> None:
    assert lines_of([b"12345678\r\n12345678\n123456789\n123456789\r\n"]) == [
        b"12345678",
        b"12345678",
        "too long",
        "too long",
    ]


def test_some_lines_may_be_longer() -> None:
    assert lines_of([b"AUTH 6789012\r\nAUTH 67890123\r\n"]) == [b"AUTH 6789012", "too long"]


def test_the_rest_of_a_long_line_is_swallowed() -> None:
    assert lines_of([b"x" * 100, b"x" * 100, b"x\r", b"\nnext\r\n"]) == ["too long", b"next"]


def test_clear_forgets() -> None:
    buffer = LineBuffer(LIMIT)
    buffer.feed(b"one\ntwo\nth")
    assert buffer.next_line() == b"one"
    assert buffer.pending == 6
    buffer.clear()
    assert buffer.pending == 0
    buffer.feed(b"new\n")
    assert buffer.next_line() == b"new"
    assert buffer.next_line() is None


def test_clear_ends_swallowing() -> None:
    buffer = LineBuffer(LIMIT)
    buffer.feed(b"x" * 20)
    try:
        buffer.next_line()
    except LineTooLong:
        buffer.clear()
    buffer.feed(b"new\n")
    assert buffer.next_line() == b"new"


@given(
    st.lists(st.sampled_from([b"A", b"AUTH ", b"xxxx", b"\r", b"\n", b"\r\n", b"0123456789"]), max_size=40),
    st.data(),
)
def test_any_cut_gives_the_same_lines(words: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(words)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    # A line over the limit that has not ended is told of as soon as it is known to be one.
    assert lines_of(pieces) == lines_of([whole]) == lines_of([bytes([octet]) for octet in whole])
