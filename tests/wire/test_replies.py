"""Replies: shapes, limits, cuts, and text that is not fit for a log."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailserver.values.reply import Reply
from mailserver.wire.replies import LINE_OCTETS, REPLY_LINES, MalformedReply, ReplyReader


def read(*chunks: bytes) -> list[Reply]:
    reader = ReplyReader()
    replies = []
    for chunk in chunks:
        reader.add(chunk)
        while (reply := reader.next()) is not None:
            replies.append(reply)
    return replies


@pytest.mark.parametrize(
    ("wire", "reply"),
    [
        (b"250 2.1.0 Ok\r\n", Reply(250, "2.1.0", ("Ok",))),
        (b"250 Ok\n", Reply(250, "", ("Ok",))),
        (b"250\r\n", Reply(250, "", ("",))),
        (b"250 2.0.0\r\n", Reply(250, "2.0.0", ("",))),
        (b"250 5.1.1 no\r\n", Reply(250, "", ("5.1.1 no",))),
        (b"550-5.1.1 No such\r\n550 5.1.1 user\r\n", Reply(550, "5.1.1", ("No such", "user"))),
        (b"250-a\r\n250-b\r\n250 c\r\n", Reply(250, "", ("a", "b", "c"))),
        (b"450-a\r\n550 b\r\n", Reply(550, "", ("a", "b"))),
        (b"250 2.5\r\n", Reply(250, "", ("2.5",))),
        (b"550 \x1b[1mhi\x00\t\xff\r\n", Reply(550, "", ("?[1mhi? \ufffd",))),
        (b"550 a\rb\r\n", Reply(550, "", ("a?b",))),
    ],
)
def test_a_reply_whole_and_byte_by_byte(wire: bytes, reply: Reply) -> None:
    assert read(wire) == [reply]
    assert read(*[wire[n : n + 1] for n in range(len(wire))]) == [reply]
    assert read(wire + wire + b"25") == [reply, reply]


@pytest.mark.parametrize(
    "wire",
    [
        b"\r\n",
        b"25\r\n",
        b"999 x\r\n",
        b"100 x\r\n",
        b"250x\r\n",
        b"hello\r\n",
        b"250-a\r\nb\r\n",
        "٢٥٠ x\r\n".encode(),
        b"250 " + b"x" * LINE_OCTETS + b"\r\n",
        b"250 " + b"x" * LINE_OCTETS,
        b"250-x\r\n" * (REPLY_LINES + 1),
        (b"250-" + b"x" * 4000 + b"\r\n") * 9,
    ],
)
def test_what_is_no_reply(wire: bytes) -> None:
    with pytest.raises(MalformedReply):
        read(wire)


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"250", b"-", b" ", b"2.0.0", b"\r\n"])))
def test_replies_or_malformed_and_always_printable(chunks: list[bytes]) -> None:
    try:
        replies = read(*chunks)
    except MalformedReply:
        return
    assert all(r.text.isprintable() and 200 <= r.code <= 599 for r in replies)
    assert replies == read(b"".join(chunks))


def test_it_tells_of_a_rest() -> None:
    reader = ReplyReader()
    reader.add(b"220 go\r\n250-x\r\n")
    assert reader.next() == Reply(220, "", ("go",))
    assert reader.has_rest
    reader.next()
    assert reader.has_rest
    reader.clear()
    assert not reader.has_rest
