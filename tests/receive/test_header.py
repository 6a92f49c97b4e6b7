"""The header reader passes content on, and counts the fields that tell of loops."""

import pytest

from mailserver.receive.header import HeaderReader

BODY = b"\r\nBody: not a field\r\n\r\nReceived: no\r\n"
FULL = b"Date: now\r\nMESSAGE-ID : <a@b>\r\nReceived: x\r\n\ty; z\r\nreceived: w\r\n" + BODY


def read(octets: bytes, step: int) -> tuple[bytes, HeaderReader]:
    reader = HeaderReader()
    kept = b"".join(reader.feed(octets[n : n + step]) for n in range(0, len(octets), step))
    return kept + reader.finish(), reader


@pytest.mark.parametrize("step", [1, 2, 3, 7, 10_000])
@pytest.mark.parametrize(
    "octets",
    [FULL, BODY, b"Subject: x\r\n", b"", b"\r\n"],
)
def test_unmended_content_passes_unchanged(octets: bytes, step: int) -> None:
    assert read(octets, step)[0] == octets


@pytest.mark.parametrize("step", [1, 3, 10_000])
@pytest.mark.parametrize("octets", [b"Hello Ada,\r\nNote to self: hi\r\n", b" leading space\r\nA: b\r\n"])
def test_text_without_a_header_gets_the_empty_line_before_it(octets: bytes, step: int) -> None:
    assert read(octets, step)[0] == b"\r\n" + octets


@pytest.mark.parametrize("step", [1, 2, 5, 10_000])
def test_fields_are_counted_in_the_header_alone(step: int) -> None:
    reader = read(FULL, step)[1]
    assert reader.fields == {b"received": 2}
    assert reader.hops == 2


@pytest.mark.parametrize("step", [3, 10_000])
def test_where_a_message_has_been_is_known(step: int) -> None:
    reader = read(b"Delivered-To: Ada@Example.test \r\nX: y\r\ndelivered-to:bob@b.test\r\n\r\n", step)[1]
    assert reader.delivered_to == [b"ada@example.test", b"bob@b.test"]


def test_a_header_without_end_is_noticed_and_costs_no_memory() -> None:
    reader = HeaderReader()
    for n in range(20_000):
        line = b"Field-%d: %s\r\n" % (n, b"x" * 100)
        assert reader.feed(line) == line
    assert reader.is_too_long
    assert reader.fields == {}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_the_priority_is_left_out_wherever_its_octets_are_cut(size: int) -> None:
    octets = (
        b"MT-Priority:4\r\nSubject: x\r\nmt-priority : 9\r\n folded\r\n\tmore\r\nX-MT-Priority: 1\r\n"
        b"MT-Priority: z\r\n\r\nMT-Priority: 5\r\n"
    )
    header = HeaderReader()
    kept = b"".join(header.feed(octets[n : n + size]) for n in range(0, len(octets), size)) + header.finish()
    assert kept == b"Subject: x\r\nX-MT-Priority: 1\r\n\r\nMT-Priority: 5\r\n"
    assert header.priority == 4
