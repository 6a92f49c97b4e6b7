"""Binary parts become base64, all else stays as it is, however the octets are cut."""

from __future__ import annotations

import base64
import email
import email.policy
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailserver.wire.binary_mime import DEPTH, HEADER_OCTETS, HEADER_TOO_LONG, TOO_DEEP, BinaryMime

PICTURE = bytes(range(256)) * 3 + b"\r\n--other\r\n\r\n--bou\n\r"
BINARY = b"Content-Transfer-Encoding: binary\r\n"

MIXED = b"".join(
    [
        b'Subject: two\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n boundary="bound"\r\n',
        BINARY,
        b"\r\npreamble\r\n--bound\r\nContent-Type: text/plain\r\n\r\nhello\r\n--bound \t\r\n",
        b"Content-Type: image/png\r\n",
        BINARY,
        b"\r\n",
        PICTURE,
        b"\r\n--bound\r\nContent-Type: message/rfc822\r\n",
        BINARY,
        b"\r\nSubject: inner\r\nContent-Type: application/x\r\n",
        b"Content-transfer-encoding:\r\n BINARY (yes)\r\n\r\n",
        b"\0\r\n\0",
        b"\r\n--bound\r\n",
        BINARY,
        b"\r\n\r\n--bound--\r\nepilogue\r\n",
    ]
)


def converted(octets: bytes, *cuts: int) -> bytes:
    mime = BinaryMime()
    bounds = [0, *sorted(cuts), len(octets)]
    out = b"".join(mime.feed(octets[a:b]) for a, b in itertools.pairwise(bounds))
    out += mime.finish()
    assert mime.fault is None
    return out


def test_parts_in_binary_become_base64_and_the_parser_sees_the_same() -> None:
    message = email.message_from_bytes(converted(MIXED), policy=email.policy.default)
    assert not message.defects
    assert message["Content-Transfer-Encoding"] == "8bit"
    text, picture, inner, empty = message.get_payload()
    assert text.get_content() == "hello"
    assert text["Content-Transfer-Encoding"] is None
    assert picture["Content-Transfer-Encoding"] == "base64"
    assert picture.get_payload(decode=True) == PICTURE
    assert inner["Content-Transfer-Encoding"] == "8bit"
    (enclosed,) = inner.get_payload()
    assert enclosed["Content-Transfer-Encoding"] == "base64"
    assert enclosed.get_payload(decode=True) == b"\0\r\n\0"
    assert empty.get_payload(decode=True) == b""
    assert message.preamble.strip() == "preamble"
    assert message.epilogue.strip() == "epilogue"


def test_every_cut_gives_the_same() -> None:
    whole = converted(MIXED)
    for at in range(len(MIXED)):
        assert converted(MIXED, at) == whole, at
    assert converted(MIXED, *range(len(MIXED))) == whole


def test_lines_are_lines_of_mail() -> None:
    out = converted(MIXED)
    assert b"\0" not in out
    assert out.count(b"\n") == out.count(b"\r\n") == out.count(b"\r")
    assert max(map(len, out.split(b"\r\n"))) <= 76


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"Subject: only a header\r\n",
        b"\r\nno header\r\n",
        b"Subject: x\r\n\r\nbody\r\n",
        b"Subject: x\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\xc3\xbc\r\n",
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n--bb\r\n\r\n--b--\r\n\r\n--b\r\n"
        + BINARY,
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b",
        b"Content-Type: multipart/mixed; boundary=\r\n\r\n--b\r\n",
        b"Content-Type: text/plain; boundary=b\r\n\r\n--b\r\n" + BINARY + b"\r\nx\r\n",
    ],
)
def test_what_is_not_binary_stays(message: bytes) -> None:
    assert converted(message) == message
    assert converted(message, *range(len(message))) == message


def test_a_whole_message_in_binary() -> None:
    body = random.Random(7).randbytes(100_000)
    out = converted(b"Subject: x\r\n" + BINARY + b"\r\n" + body, 40, 5_000, 5_001, 77_777)
    header, _, text = out.partition(b"\r\n\r\n")
    assert header == b"Subject: x\r\nContent-Transfer-Encoding: base64"
    assert base64.b64decode(text) == body


def test_an_inner_boundary_does_not_end_an_outer_part() -> None:
    message = (
        b"Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n"
        b"Content-Type: multipart/mixed; boundary=aa\r\n\r\n--aa\r\n" + BINARY + b"\r\n\0\r\n--aa--\r\n"
        b"\r\n--a\r\n" + BINARY + b"\r\n\r\n--aa\r\n\0\r\n--a--\r\n"
    )
    parsed = email.message_from_bytes(converted(message))
    inner, last = parsed.get_payload()
    assert inner.get_payload(0).get_payload(decode=True) == b"\0"
    assert last.get_payload(decode=True) == b"\r\n--aa\r\n\0"


def test_headers_and_depth_are_bounded() -> None:
    mime = BinaryMime()
    mime.feed(b"A: " + b"b" * HEADER_OCTETS)
    assert mime.fault == HEADER_TOO_LONG
    mime = BinaryMime()
    for n in range(DEPTH + 1):
        mime.feed(b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n))
    assert mime.fault == TOO_DEEP


WORDS = [
    b"\r\n",
    b"--",
    b"--a",
    b"--ab",
    b"--\r\n",
    b"\r",
    b"Content-Type: multipart/mixed; boundary=a\r\n\r\n",
]
WORDS += [
    b'Content-Type: multipart/x; boundary="ab"\r\n\r\n',
    BINARY,
    BINARY + b"\r\n",
    b"\0",
    b" ",
    b"x" * 60,
]


@settings(max_examples=120, deadline=None)
@given(st.lists(st.sampled_from(WORDS) | st.binary(max_size=4), max_size=30), st.data())
def test_any_octets_in_any_cut_give_the_same(words: list[bytes], data: st.DataObject) -> None:
    octets = b"".join(words)
    cuts = data.draw(st.lists(st.integers(0, len(octets)), max_size=8))
    assert converted(octets, *cuts) == converted(octets)
