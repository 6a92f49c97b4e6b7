"""The content scanner: only CRLF . CRLF ends it, whatever is fed and however it is cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailserver.values.reply import Reply
from mailserver.wire.dots import dot_stuffed
from mailserver.wire.smtp_data import BARE_LINE_END, LONG_LINE, NUL_OCTET, TOO_LARGE, ContentScanner

END = b"\r\n.\r\n"
UNICODE_LINE_ENDS = "NEL \x85 LS \u2028 VT \x0b FF \x0c FS \x1c\r\n".encode()
BEHIND = b"MAIL FROM:<evil@example.test>\r\nRCPT TO:<ada@example.test>\r\nDATA\r\nsmuggled\r\n.\r\n"


def scan(
    pieces: list[bytes], size_limit: int = 1 << 30, line_limit: int = 1000
) -> tuple[bytes, bool, bytes, Reply | None]:
    """Content, whether it ended, what followed, and the fault. A fault's content does not count."""
    scanner = ContentScanner(size_limit, line_limit)
    content = []
    rest = b""
    for piece in pieces:
        if scanner.ended:
            rest += piece
            continue
        content.append(scanner.scan(piece))
        rest = scanner.rest
    return b"" if scanner.fault else b"".join(content), scanner.ended, rest, scanner.fault


def octet_by_octet(octets: bytes) -> list[bytes]:
    return [octets[n : n + 1] for n in range(len(octets))]


@pytest.mark.parametrize(
    ("octets", "content"),
    [
        (b".\r\n", b""),
        (b"\r\n.\r\n", b"\r\n"),
        (b"a\r\n.\r\n", b"a\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b".a\r\n..b\r\nc.\r\n.\r\n", b"a\r\n.b\r\nc.\r\n"),
        (b"...\r\n..\r\n.\r\n", b"..\r\n.\r\n"),
        (b"a\r\n..\r\n\r\n..\r\n.\r\n", b"a\r\n.\r\n\r\n.\r\n"),
        (b"\xff\xfe\r\n.\r\n", b"\xff\xfe\r\n"),
        (UNICODE_LINE_ENDS + b".\r\n", UNICODE_LINE_ENDS),
    ],
)
def test_content_and_end(octets: bytes, content: bytes) -> None:
    for pieces in ([octets], octet_by_octet(octets), [octets + BEHIND]):
        rest = BEHIND if len(pieces[0]) > len(octets) else b""
        assert scan(pieces) == (content, True, rest, None)


# attacks-and-faults, cases 1 to 4 and 7: none of these ends the data.
FALSE_ENDS = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r\n.\r",
    b"\r.\r",
    b"\r.\n",
    b"\r.\r\n",
    b"\n.\r",
    b"\r\n.\r\r\n",
    b"\n\r.\n\r",
    b"\r\n\x00.\r\n",
    b"\r\n.\x00\r\n",
    b"\r\x00\n.\r\n",
    b"\x0b.\x0b",
    b"\x0c.\x0c",
    b"\x1c.\x1c",
    b"\x1d.\x1d",
    b"\x1e.\x1e",
    "\x85.\x85".encode(),
    b"\x85.\x85",
    "\u2028.\u2028".encode(),
    "\u2029.\u2029".encode(),
    b"\r\n .\r\n",
    b"\r\n. \r\n",
    b"\r\n\t.\r\n",
    b"\r\n.\t\r\n",
    b"\r\n\xef\xbc\x8e\r\n",
    b"\r\n\xc0\xae\r\n",
    b"\x8d\x8a.\x8d\x8a",
    b"\r\n\xae\r\n",
]


@pytest.mark.parametrize("false_end", FALSE_ENDS, ids=repr)
def test_false_ends_do_not_end(false_end: bytes) -> None:
    for begin in (b"Subject: a\r\n\r\ntext", b""):
        octets = begin + false_end + BEHIND.replace(b"\r\n.\r\n", b"")
        for pieces in ([octets], octet_by_octet(octets)):
            _, ended, rest, _ = scan(pieces)
            assert not ended
            assert rest == b""
        faulty = any(octet in b"\r\n\0" for octet in false_end.replace(b"\r\n", b""))
        content, ended, rest, fault = scan([octets, END, BEHIND])
        assert ended
        assert rest == BEHIND
        assert (fault is not None) == faulty
        assert faulty or b"MAIL FROM:<evil@example.test>\r\n" in content


def test_a_dot_line_behind_two_carriage_returns_is_the_end_and_a_fault() -> None:
    assert scan([b"a\r\r\n.\r\r\nb\r\n.\r\n"]) == (b"", True, b"", BARE_LINE_END)
    assert scan([b"a\r\r\n.\r\nRSET\r\n"]) == (b"", True, b"RSET\r\n", BARE_LINE_END)


@pytest.mark.parametrize("first", [b".\n", b".\r", b".\r\r\n", b"\n.\r\n"])
def test_a_false_dot_right_behind_354(first: bytes) -> None:
    assert not scan([first])[1]
    assert scan([first + b"x" + END])[3] == BARE_LINE_END


def test_the_end_may_be_cut_anywhere() -> None:
    octets = b"a\r\n..b" + END + b"QUIT\r\n"
    for cut in range(len(octets)):
        assert scan([octets[:cut], octets[cut:]]) == (b"a\r\n.b\r\n", True, b"QUIT\r\n", None)


def test_nul() -> None:
    assert scan([b"a\0b" + END])[3] == NUL_OCTET


@pytest.mark.parametrize(("length", "fault"), [(998, None), (999, LONG_LINE), (17_000, LONG_LINE)])
@pytest.mark.parametrize("before", [b"", b"short\r\n" * 300, b"x" * 998 + b"\r\n"])
@pytest.mark.parametrize("step", [1, 7, 999, 1000, 1001, 1 << 20])
def test_line_length(length: int, fault: Reply | None, before: bytes, step: int) -> None:
    content = before + b"l" * length + b"\r\nshort\r\n"
    octets = content + b".\r\n"
    pieces = [octets[n : n + step] for n in range(0, len(octets), step)]
    assert scan(pieces) == (b"" if fault else content, True, b"", fault)


def test_a_stuffed_dot_does_not_count_for_the_line() -> None:
    content = b"." + b"x" * 997 + b"\r\n"
    assert scan([b"." + content + b".\r\n"]) == (content, True, b"", None)


def test_a_very_long_line_is_swallowed_to_the_true_end() -> None:
    pieces = [b"x" * 70_000] * 30 + [END + b"QUIT\r\n"]
    assert scan(pieces) == (b"", True, b"QUIT\r\n", LONG_LINE)


@pytest.mark.parametrize(("limit", "fault"), [(9, None), (8, TOO_LARGE)])
def test_size_is_that_of_the_content_not_of_its_stuffing(limit: int, fault: Reply | None) -> None:
    content = b".a\r\nabc\r\n"
    assert len(content) == 9
    assert scan([b"." + content + b".\r\n"], limit) == (b"" if fault else content, True, b"", fault)


def test_too_large_hands_nothing_on_and_keeps_nothing() -> None:
    scanner = ContentScanner(100_000)
    handed = sum(len(scanner.scan(b"x" * 70 + b"\r\n" + b"y" * 8000)) for _ in range(100))
    assert handed <= 100_000
    assert scanner.scan(b"more" + END) == b""
    assert scanner.ended
    assert scanner.fault == TOO_LARGE


@given(
    st.lists(
        st.sampled_from([b"\r\n", b".", b"..", b"\r\n.", b"text", b"\r\n.\r\n", b"\r\n..\r\n"]), max_size=30
    )
)
def test_canonical_content_comes_through_unchanged(parts: list[bytes]) -> None:
    content = b"".join(parts)
    content += b"" if content.endswith(b"\r\n") or not content else b"\r\n"
    assert scan([dot_stuffed(content) + b"QUIT\r\n"]) == (content, True, b"QUIT\r\n", None)


PARTS = st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\0", b"x", b"y" * 30, b"\r\n.\r\n", b"\r\n."])


@given(st.lists(PARTS, max_size=40), st.data())
def test_cuts_change_nothing(parts: list[bytes], data: st.DataObject) -> None:
    octets = b"".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(octets)), max_size=8)))
    pieces = [octets[a:b] for a, b in zip([0, *cuts], [*cuts, len(octets)], strict=True)]
    whole = scan([octets], size_limit=150, line_limit=50)
    assert scan([piece for piece in pieces if piece], 150, 50) == whole
    assert scan(octet_by_octet(octets), 150, 50) == whole


@given(st.lists(PARTS, max_size=40))
def test_the_end_is_where_the_rule_says(parts: list[bytes]) -> None:
    octets = b"".join(parts)
    end = (b"\r\n" + octets).find(END)
    _, ended, rest, fault = scan([octets])
    assert ended == (end >= 0)
    if ended:
        assert rest == (b"\r\n" + octets)[end + 5 :]
        body = octets[:end]
        stray = body.replace(b"\r\n", b"")
        assert (fault == BARE_LINE_END) == (b"\r" in stray or b"\n" in stray)
