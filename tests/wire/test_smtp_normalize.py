"""Content with bare line ends where it is mended: one way to cut it, one result, one true end."""

from __future__ import annotations

import itertools
import random

import pytest

from mailserver.wire.smtp_data import ContentScanner


def scanned(octets: bytes, sizes: itertools.cycle[int]) -> tuple[bytes, bool, bytes]:
    """Content, whether the end was found, and what followed it, fed in pieces of ``sizes``."""
    scanner = ContentScanner(1_000_000, normalize=True)
    content, at = b"", 0
    while at < len(octets) and not scanner.ended:
        size = next(sizes)
        content += scanner.scan(octets[at : at + size])
        at += size
    return content, scanner.ended, scanner.rest + octets[at:]


def by_lines(octets: bytes) -> tuple[bytes, bool, bytes]:
    """The same by the book, a line at a time: Postfix's ``normalize``."""
    content, at, after_crlf = b"", 0, True
    while (feed := octets.find(b"\n", at)) >= 0:
        is_crlf = feed > at and octets[feed - 1] == 0x0D
        line = octets[at : feed - is_crlf]
        at = feed + 1
        if line == b"." and is_crlf and after_crlf:
            return content, True, octets[at:]
        if line != b".":
            content += line.removeprefix(b".").replace(b"\r", b" ") + b"\r\n"
        after_crlf = is_crlf
    return content, False, b""


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        (b"a\nb\r\n.\r\n", b"a\r\nb\r\n"),
        (b"a\n.\nb\r\n.\r\n", b"a\r\nb\r\n"),
        (b"a\n.\r\nb\r\n.\r\n", b"a\r\nb\r\n"),
        (b"a\r\n.\nb\r\n.\r\n", b"a\r\nb\r\n"),
        (b"a\r.\rb\r\n.\r\n", b"a . b\r\n"),
        (b"a\r\r\n.\r\n", b"a \r\n"),
        (b"a\n..b\r\n.\r\n", b"a\r\n.b\r\n"),
        (b".\n.\n.\r\na\r\n.\r\n", b"a\r\n"),
        (b"\n.\n\r\n.\r\n", b"\r\n\r\n"),
    ],
)
def test_what_is_kept(sent: bytes, kept: bytes) -> None:
    for size in (1, 2, 3, 1000):
        assert scanned(sent + b"QUIT", itertools.cycle([size])) == (kept, True, b"QUIT")


def test_any_octets_cut_anyhow_give_what_a_reader_by_lines_gives() -> None:
    chance = random.Random(3)
    for _ in range(6000):
        octets = b"".join(
            chance.choices([b"\r", b"\n", b".", b"\r\n", b"a", b"\n.\n"], k=chance.randint(1, 14))
        )
        octets += b"\r\n.\r\n"
        sizes = itertools.cycle([chance.randint(1, 5) for _ in range(4)])
        content, ended, rest = scanned(octets, sizes)
        assert (content, ended, rest) == by_lines(octets), octets
        assert content.count(b"\n") == content.count(b"\r\n") == content.count(b"\r")


def test_lone_dots_without_end_take_linear_time() -> None:
    octets = b".\n" * 200_000
    content, ended, _ = scanned(octets, itertools.cycle([65536]))
    assert (content, ended) == (b"", False)
