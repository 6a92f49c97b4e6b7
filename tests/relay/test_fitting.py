"""What a message needs of the next server, and what is put before it where that is not there."""

from mailserver.relay.fitting import HEADER_OCTETS, as_international_as_it_is, with_priority
from mailserver.values.address import Address
from mailserver.values.content import MemoryContent
from mailserver.values.envelope import Entry, Envelope
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


def test_only_what_is_international_needs_smtputf8() -> None:
    def needs(content: bytes, local: str = "ada") -> bool:
        envelope = Envelope(Address(local, "a.test"), (), smtputf8=True)
        entry = Entry(1, 0.0, envelope, (), MemoryContent(content))
        return as_international_as_it_is(entry).envelope.smtputf8

    assert not needs(b"Subject: x\r\n\r\n\xc3\xa9")
    assert not needs(b"")
    assert not needs(b"Subject: x\r\n")
    assert needs(b"Subject: \xc3\xa9\r\n\r\nhello")
    assert needs(b"Subject: \xc3\xa9")
    assert needs(b"Subject: x\r\n\r\n", local="ю")
    assert needs(b"X: " + b"x" * HEADER_OCTETS)
