"""What is put before a message for a server that knows no MT-PRIORITY."""

from mailserver.relay.fitting import with_priority
from mailserver.values.address import Address
from mailserver.values.content import MemoryContent
from mailserver.values.envelope import Envelope
from mailserver.wire.client_commands import Extensions

CONTENT = MemoryContent(b"Subject: x\r\n\r\nx\r\n")


def sent(priority: int, *keywords: str) -> bytes:
    envelope = Envelope(Address("a", "b.test"), (), priority=priority)
    content = with_priority(CONTENT, envelope, Extensions(keywords=dict.fromkeys(keywords, "")))
    octets = b"".join(content.chunks())
    assert len(octets) == content.size
    return octets


def test_a_priority_travels_in_the_header_where_the_envelope_cannot_have_it() -> None:
    assert sent(-3) == b"MT-Priority: -3\r\n" + CONTENT.octets
    assert sent(9, "SIZE").startswith(b"MT-Priority: 9\r\n")


def test_nothing_is_added_where_nobody_needs_it() -> None:
    assert sent(0) == CONTENT.octets
    assert sent(4, "MT-PRIORITY") == CONTENT.octets
