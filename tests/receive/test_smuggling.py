"""No end of data but the true one: never a second message, never one that smuggles further on."""

from __future__ import annotations

from typing import Any

import pytest

from mailserver.wire.dots import DotStuffer
from tests.dialogues.smtp_talk import SmtpTalk
from tests.receive.smuggling import SECOND, TRUE_END, VARIANTS, message

BEGIN = [
    b"HELO far.test\r\n",
    b"MAIL FROM:<carol@far.test>\r\n",
    b"RCPT TO:<ada@example.test>\r\n",
    b"DATA\r\n",
]


@pytest.mark.parametrize("pieces", ["pipelined", "in turn", "octet by octet", "BDAT", "BDAT in two"])
@pytest.mark.parametrize("mends", [False, True], ids=["reject", "normalize"])
def test_one_message_or_none(mends: bool, pieces: str) -> None:
    assert len(VARIANTS) >= 100
    talk: Any = SmtpTalk([["normalize"]] if mends else [])
    try:
        for variant in VARIANTS:
            talk.spool.messages.clear()
            sent = message(variant)
            if pieces.startswith("BDAT"):
                half = len(sent) // 2 if pieces == "BDAT in two" else 0
                chunks = b"BDAT %d\r\n%bBDAT %d LAST\r\n%b" % (
                    half,
                    sent[:half],
                    len(sent) - half,
                    sent[half:],
                )
                talk.send(b"".join(BEGIN[:-1]) + chunks + b"QUIT\r\n")
            elif pieces == "pipelined":
                talk.send(b"".join(BEGIN) + sent + b"QUIT\r\n")
            else:
                for each in BEGIN:
                    talk.send(each)
                step = len(sent) if pieces == "in turn" else 1
                for at in range(0, len(sent), step):
                    talk.send(sent[at : at + step])
                talk.send(b"QUIT\r\n")
            talk.clock.advance(60)
            check(talk, variant, mends)
            talk._connect([])
            talk.received()
    finally:
        talk.close()


def check(talk: Any, variant: bytes, mends: bool) -> None:
    replies = talk.received().split(b"\r\n")
    assert replies[-2][:3] in (b"221", b"421"), (variant, replies)
    kept = talk.spool.messages
    assert len(kept) <= 1, variant
    assert not any(envelope.reverse_path.local == "evil" for envelope, _ in kept), variant
    bare = variant.replace(b"\r\n", b"")
    if not mends and (b"\n" in bare or b"\r" in bare):
        assert kept == [], variant
        assert any(reply.startswith(b"550 5.5.2") for reply in replies), (variant, replies)
    for _, content in kept:
        no_server_sees_an_end_in(content)


def no_server_sees_an_end_in(content: bytes) -> None:
    """What we would send on has one line end alone, and no line of a single dot before the last."""
    stuffer = DotStuffer()
    emitted = stuffer.feed(content) + stuffer.finish()
    assert emitted.count(b"\r\n") == emitted.count(b"\r") == emitted.count(b"\n")
    assert emitted.endswith(TRUE_END)
    assert emitted.count(TRUE_END) == 1
    assert b"\0" not in emitted


def test_the_second_message_is_one_where_it_is_meant() -> None:
    """The rig can see two messages, so that seeing one means something."""
    talk: Any = SmtpTalk([])
    talk.send(b"".join(BEGIN) + b"Subject: first\r\n\r\nfirst\r\n.\r\n" + SECOND + b"QUIT\r\n")
    assert [envelope.reverse_path.local for envelope, _ in talk.spool.messages] == ["carol", "evil"]
    talk.close()
