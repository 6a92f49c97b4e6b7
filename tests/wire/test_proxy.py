"""PROXY headers of both versions: whole, in pieces, and what is none."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailserver.wire.proxy import SIGNATURE, NotProxied, Proxied, parse


def binary(command: int, family: int, body: bytes) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


V4 = bytes([192, 0, 2, 7, 198, 51, 100, 1]) + struct.pack("!HH", 4321, 25)
V6 = bytes.fromhex("20010db8" + "00" * 11 + "07") + bytes(16) + struct.pack("!HH", 4321, 25)

GOOD = [
    (b"PROXY TCP4 192.0.2.7 198.51.100.1 4321 25\r\n", "192.0.2.7", 4321),
    (b"PROXY TCP6 2001:db8::7 2001:db8::1 4321 25\r\n", "2001:db8::7", 4321),
    (b"PROXY UNKNOWN\r\n", "", 0),
    (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", "", 0),
    (binary(0x21, 0x11, V4), "192.0.2.7", 4321),
    (binary(0x21, 0x21, V6), "2001:db8::7", 4321),
    (binary(0x21, 0x11, V4 + b"\x04\x00\x03abc"), "192.0.2.7", 4321),
    (binary(0x20, 0x00, b""), "", 0),
    (binary(0x20, 0x11, V4), "", 0),
    (binary(0x21, 0x31, bytes(216)), "", 0),
]


@pytest.mark.parametrize(("octets", "host", "port"), GOOD)
def test_a_header_in_any_pieces(octets: bytes, host: str, port: int) -> None:
    assert parse(octets + b"EHLO x\r\n") == Proxied(len(octets), host, port)
    for cut in range(len(octets)):
        assert parse(octets[:cut]) is None, cut


@pytest.mark.parametrize(
    "octets",
    [
        b"EHLO x\r\n",
        b"PROXY\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4321\r\n",
        b"PROXY TCP4 2001:db8::7 198.51.100.1 4321 25\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 25\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 25\r\n",
        b"PROXY TCP5 192.0.2.7 198.51.100.1 1 25\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4321 25 26\r\n",
        b"PROXY TCP4 \xff 198.51.100.1 4321 25\r\n",
        b"PROXY TCP4 " + b"1" * 200,
        binary(0x11, 0x11, V4),
        binary(0x22, 0x11, V4),
        binary(0x21, 0x11, V4[:-1]),
        SIGNATURE + b"\x21\x11\xff\xff",
    ],
)
def test_what_is_no_header(octets: bytes) -> None:
    with pytest.raises(NotProxied):
        parse(octets)


@given(st.sampled_from([b"", b"PROXY ", SIGNATURE, SIGNATURE + b"\x21\x11"]), st.binary(max_size=200))
def test_any_octets_are_a_header_or_not_yet_or_none(begin: bytes, octets: bytes) -> None:
    try:
        found = parse(begin + octets)
    except NotProxied:
        return
    assert found is None or found.length <= len(begin + octets)
