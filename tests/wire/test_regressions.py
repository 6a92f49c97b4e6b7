"""Faults that other servers had and mended in 2026: this one must not have them.

Numbers are those of the list that Postfix's HISTORY of April to August 2026 gives.  What is not here:
3 (a million small chunks) in test_smtp_chunks, 6 (smuggling) in receive/test_smuggling, 7 (tickets of
TLS sessions) in test_certificates, 11 (short DNS records) in relay/, 13 (a commit cut short) in
crashes/, 16 (floods of ETRN) in receive/test_queue_start; 9, 12, 14, 15 and 17 are about parts that
this server does not have (included files, address ranges of its own, a front process, address
verification, pipes).
"""

from __future__ import annotations

import pytest

from mailserver.spool.rows import entry_row
from mailserver.values.address import Address
from mailserver.values.envelope import Envelope
from mailserver.values.reply import reply
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
