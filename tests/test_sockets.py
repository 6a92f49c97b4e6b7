"""Writes past the reactor: in order, and never more than a turn's share."""

from __future__ import annotations

from typing import Any

from mailserver.sockets import TURN_OCTETS, StraightTransport

PIECE = b"x" * 16 * 1024


class Reader:
    """A socket whose client reads as fast as we write, and the transport over it."""

    disconnecting = False

    def __init__(self) -> None:
        self.sent = 0
        self.left = 0

    def send(self, octets: bytes) -> int:
        assert not self.left, "sent before what the transport has to send"
        self.sent += len(octets)
        return len(octets)

    def write(self, octets: bytes) -> None:
        self.left += len(octets)


def straight(reader: Any) -> StraightTransport:
    return StraightTransport(reader, reader)


def test_a_client_that_reads_as_fast_as_we_write_leaves_turns_to_others() -> None:
    reader = Reader()
    transport = straight(reader)
    for _ in range(100):
        transport.write(PIECE)
    assert 0 < reader.sent <= TURN_OCTETS
    assert reader.sent + reader.left == 100 * len(PIECE)
    transport.begin_turn()
    transport.write(b"behind it")
    assert reader.sent <= TURN_OCTETS


def test_each_turn_has_its_share() -> None:
    reader = Reader()
    transport = straight(reader)
    for _ in range(100):
        transport.begin_turn()
        transport.write(PIECE)
    assert reader.sent == 100 * len(PIECE)
