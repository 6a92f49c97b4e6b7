"""Faults that Postfix mended from April to August 2026 (its HISTORY): this server must not have them.

| number | fault | test; `here` is one whose name begins with the number |
|---|---|---|
| 1 | DATA after a failed BDAT without MAIL | here |
| 2 | a refusal at the end of data leaves MAIL and RCPT | here |
| 3 | memory for small BDATs | wire/test_smtp_chunks: test_a_million_chunks_cost_constant_memory |
| 4 | a refused VRFY resets half of a transaction | here |
| 5 | a From line at the beginning escapes the limits | here |
| 6 | smuggling across a hop | receive/test_smuggling, journeys/test_smuggling |
| 7 | TLS tickets of other services | test_certificates: test_a_session_is_not_resumed_at_another_listener |
| 8 | NUL or line break in an envelope | here |
| 9 | recursion of included lists | here |
| 10 | a plus in ORCPT is not xtext | here |
| 11 | short DNS records | relay/test_resolver: test_a_record_shorter_than_its_kind_is_a_delay |
| 12 | comparisons of addresses that contradict each other | here |
| 13 | a commit cut short | crashes/test_spool: test_a_crash_between_body_and_commit_leaves_nothing |
| 14 | a front process that remembers too much | here |
| 15 | a cache of verified addresses poisoned by a user | none: no address is verified by asking others |
| 16 | floods of ETRN | receive/test_queue_start: test_a_flood_starts_once |
| 17 | an empty word shifts the arguments of a pipe | deliver/test_command: test_what_a_command_gets |
| 18 | text of an earlier reply in a later one | here |
"""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from mailserver.connections import is_in
from mailserver.spool.rows import entry_row
from mailserver.values.account import Alias
from mailserver.values.address import Address
from mailserver.values.clients import client_network, plain_host
from mailserver.values.envelope import Envelope
from mailserver.values.expansion import final_addresses
from mailserver.values.reply import reply
from mailserver.wire import proxy
from mailserver.wire.replies import ReplyReader
from mailserver.wire.smtp_data import BARE_LINE_END, LONG_LINE, TOO_LARGE
from mailserver.wire.smtp_events import ContentChunk, ContentEnd, DataBegin, MailFrom, RcptTo
from tests.wire.smtp_peer import Peer, codes

READY = b"EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n"


def ready() -> Peer:
    peer = Peer()
    peer.say(READY)
    peer.events.clear()
    return peer


def test_1_data_after_a_failed_chunk_finds_no_transaction() -> None:
    for chunk in (b"BDAT 3\r\na\nb", b"BDAT 3 LAST\r\na\nb", b"BDAT 99999\r\n" + b"x\r\n" * 33333):
        peer = ready()
        assert codes(peer.say(chunk))[0][0] == "5"
        assert codes(peer.say(b"DATA\r\nRCPT TO:<c@d.test>\r\n")) == ["503", "503"]
        assert not peer.machine.in_transaction


@pytest.mark.parametrize(
    "content",
    [b"DATA\r\na\nb\r\n.\r\n", b"DATA\r\nok\r\n.\r\n", b"BDAT 3 LAST\r\na\nb", b"BDAT 4 LAST\r\nok\r\n"],
)
def test_2_a_refusal_at_the_end_of_data_leaves_nothing_behind(content: bytes) -> None:
    peer = ready()
    peer.answers[ContentEnd] = reply(550, "5.7.1", "No")
    assert codes(peer.say(content))[-1] == "550"
    assert codes(peer.say(b"RCPT TO:<e@f.test>\r\nDATA\r\nBDAT 3 LAST\r\nx\r\n")) == ["503", "503", "503"]
    assert [type(e) for e in peer.events].count(DataBegin) == 1


def test_4_a_refused_vrfy_changes_no_transaction() -> None:
    peer = ready()
    assert codes(peer.say("VRFY \udcff\r\n".encode(errors="surrogateescape"))) == ["501"]
    peer.say("VRFY пошта\r\nEXPN пошта\r\nVRFY\r\n")
    assert peer.machine.in_transaction
    assert codes(peer.say(b"DATA\r\nx\r\n.\r\n")) == ["354", "250"]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"From x\r\n" * 2000, TOO_LARGE),
        (b"From " + b"x" * 1000 + b"\r\n", LONG_LINE),
        (b"From x\nSubject: y\r\n", BARE_LINE_END),
    ],
)
def test_5_a_from_line_at_the_beginning_is_no_exception(content: bytes, fault: object) -> None:
    for sent in (b"DATA\r\n" + content + b".\r\n", b"BDAT %d LAST\r\n" % len(content) + content):
        peer = ready()
        peer.say(sent)
        assert peer.events[-1] == ContentEnd(fault)  # type: ignore[arg-type]


@pytest.mark.parametrize("hostile", ["a\r\nb", "a\nb", "a\0b", "a\rb", "a\x0bb", "a\u2028b"])
def test_8_no_line_end_or_nul_gets_into_an_envelope(hostile: str) -> None:
    peer = Peer()
    peer.say(b"EHLO x\r\n")
    peer.say(f"MAIL FROM:<{hostile}@b.test> SMTPUTF8\r\nRSET\r\n")
    peer.say(f'MAIL FROM:<"{hostile}"@b.test> SMTPUTF8\r\nRSET\r\n')
    peer.say(f"MAIL FROM:<a@b.test> SMTPUTF8 ENVID={hostile} AUTH={hostile}\r\nRSET\r\n")
    peer.say(f"MAIL FROM:<a@b.test> SMTPUTF8\r\nRCPT TO:<c@d.test> ORCPT=utf-8;{hostile}\r\n")
    said = [e for e in peer.events if isinstance(e, MailFrom | RcptTo)]
    assert not any(c in repr(e) for e in said for c in ("\\n", "\\r", "\\x0", "\\u2028"))
    if "\0" in hostile:
        with pytest.raises(ValueError, match="NUL"):
            entry_row(1, 2.0, Envelope(Address(hostile, "b.test"), ()))


def test_9_no_address_includes_a_file() -> None:
    """Files named in an alias are no thing here; and aliases that lead to each other come to an end."""
    peer = ready()
    assert codes(peer.say(b'RCPT TO:<:include:/etc/passwd>\r\nRCPT TO:<":include:/x"@d.test>\r\n')) == [
        "501",
        "250",  # a name like any other, which nobody has
    ]
    ring = {
        f"a{n}": Alias(Address(f"a{n}", "d.test"), (Address(f"a{(n + 1) % 5000}", "d.test"),))
        for n in range(5000)
    }
    assert final_addresses(lambda address: ring[address.local], Address("a0", "d.test")) == {}


def test_12_an_address_has_one_spelling() -> None:
    networks = [ip_network("192.0.2.0/24"), ip_network("2001:db8::/64")]
    for host in ("192.0.2.1", "::ffff:192.0.2.1", "::FFFF:C000:201", "2001:DB8::1", "2001:db8:0:0::1"):
        assert is_in(plain_host(host), networks), host
    for host in ("192.0.3.1", "::192.0.2.1", "2001:db8:0:1::1", "192.0.2.1.", "0300.0.2.1", ""):
        assert not is_in(plain_host(host), networks), host
    assert client_network("::ffff:192.0.2.1") == client_network("192.0.2.1")
    assert client_network("2001:db8::1") == client_network("2001:DB8:0:0:ffff::2")


def test_14_what_comes_before_a_command_is_bounded() -> None:
    peer = Peer()
    for _ in range(1000):
        peer.say(b" " * 1000)
    assert len(peer.machine._buffer) < 20_000
    for _ in range(1000):
        with pytest.raises(proxy.NotProxied):
            proxy.parse(b"PROXY " + b"x" * 5000)


def test_10_a_plus_in_orcpt_is_xtext() -> None:
    peer = ready()
    assert codes(peer.say(b"RCPT TO:<c@d.test> ORCPT=rfc822;c+x@d.test\r\n")) == ["501"]
    assert codes(peer.say(b"RCPT TO:<c@d.test> ORCPT=rfc822;c+2Bx@d.test\r\n")) == ["250"]
    assert peer.events[-1] == RcptTo(Address("c", "d.test"), orcpt="rfc822;c+2Bx@d.test")


def test_18_no_reply_has_text_of_an_earlier_one() -> None:
    reader = ReplyReader()
    reader.add(b"250-one\r\n250-two\r\n250 three\r\n550 no\r\n")
    first, second = reader.next(), reader.next()
    assert first is not None
    assert second is not None
    assert (first.lines, second.lines) == (("one", "two", "three"), ("no",))
    reader.add(b"250-four\r\n")
    assert reader.next() is None
    reader.add(b"250 five\r\n")
    third = reader.next()
    assert third is not None
    assert third.lines == ("four", "five")


def test_content_of_one_message_never_reaches_the_next() -> None:
    peer = ready()
    peer.say(b"BDAT 6\r\nA: b\r\nRSET\r\n" + READY[8:] + b"BDAT 6 LAST\r\nC: d\r\n")
    assert [e for e in peer.events if isinstance(e, ContentChunk)] == [ContentChunk(b"C: d\r\n")]
