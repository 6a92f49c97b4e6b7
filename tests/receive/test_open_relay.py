"""No form of an address makes us carry a stranger's mail elsewhere: over the real factory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.dialogues.smtp_talk import SmtpTalk

FORMS = [
    "dave@elsewhere.test",
    "dave@ELSEWHERE.TEST",
    "dave@elsewhere.test.",
    "dave%elsewhere.test@example.test",
    "dave%elsewhere.test@mx.example.test",
    "dave%elsewhere.test%example.test@example.test",
    "dave%elsewhere.test",
    "elsewhere.test!dave@example.test",
    "elsewhere.test!dave",
    "example.test!elsewhere.test!dave",
    "@example.test:dave@elsewhere.test",
    "@example.test,@mx.example.test:dave@elsewhere.test",
    "@mx.example.test:dave@elsewhere.test",
    "@elsewhere.test:dave@elsewhere.test",
    '"dave@elsewhere.test"@example.test',
    '"dave@elsewhere.test"',
    '"dave%elsewhere.test"@example.test',
    '"elsewhere.test!dave"@example.test',
    '"@elsewhere.test:dave"@example.test',
    '"|/bin/sh"@example.test',
    '"/etc/passwd"@example.test',
    '":include:/etc/passwd"@example.test',
    "dave@elsewhere.test@example.test",
    "dave@example.test@elsewhere.test",
    "<dave@elsewhere.test>",
    "ada@example.test>,<dave@elsewhere.test",
    "dave@elsewhere.test,ada@example.test",
    "dave@elsewhere.test ada@example.test",
    "dave@[192.0.2.1]",
    "dave@[127.0.0.1]",
    "dave@[IPv6:::1]",
    "dave@127.0.0.1",
    "dave@localhost",
    "dave@mx.example.test",
    "ada@sub.example.test",
    "ada@example.test.elsewhere.test",
    "ada@elsewhere.test#@example.test",
    "ada@elsewhere.test\\@example.test",
    "dave@elsewhere.test\x00@example.test",
    "dave\r\n@elsewhere.test",
    "postmaster@elsewhere.test",
    "dave=elsewhere.test@example.test",
    "ada+dave@elsewhere.test",
    "dave@xn--elsewhere-test",
    "dave@example。test.elsewhere.test",
    "",
]

SENDERS = ["", "ada@example.test", "dave@elsewhere.test", "root@mx.example.test", "postmaster@example.test"]


@pytest.fixture(scope="module")
def talk() -> Iterator[SmtpTalk]:
    talk = SmtpTalk([])
    yield talk
    talk.close()


def said(talk: Any, *lines: str) -> list[bytes]:
    """The last reply to each line."""
    replies = []
    for line in lines:
        talk.send(line.encode() + b"\r\n")
        talk.clock.advance(1)
        replies.append(talk.received().split(b"\r\n")[-2])
    return replies


def fresh(talk: Any, *, hello: str = "EHLO mx.example.test") -> None:
    if not talk.wire.is_closed:
        talk.wire.lose(Exception())
    talk._connect([])
    talk.received()
    said(talk, hello)


@pytest.mark.parametrize("form", FORMS, ids=repr)
def test_a_stranger_is_refused(talk: Any, form: str) -> None:
    fresh(talk)
    _, refused, data = said(talk, "MAIL FROM:<carol@far.test>", f"RCPT TO:<{form}>", "DATA")
    assert refused[:1] == b"5", refused
    assert data[:3] in (b"554", b"503"), data
    assert talk.spool.messages == []


@pytest.mark.parametrize("sender", SENDERS, ids=repr)
def test_no_sender_is_trusted_by_its_name(talk: Any, sender: str) -> None:
    for hello in ("EHLO mx.example.test", "HELO localhost", "EHLO [127.0.0.1]", "EHLO example.test"):
        fresh(talk, hello=hello)
        accepted, refused = said(talk, f"MAIL FROM:<{sender}>", "RCPT TO:<dave@elsewhere.test>")
        assert accepted[:3] == b"250"
        assert refused.startswith(b"550 5.7.1"), refused


@pytest.mark.parametrize(
    "before",
    [
        ["AUTH PLAIN AGFkYQB3cm9uZw=="],
        ["AUTH LOGIN", "*"],
        ["XCLIENT ADDR=127.0.0.1 LOGIN=ada@example.test"],
        ["XFORWARD ADDR=127.0.0.1"],
        ["PROXY TCP4 127.0.0.1 127.0.0.1 1 25"],
        ["STARTTLS"],
        ["VRFY ada@example.test"],
        ["EXPN ada"],
        ["HELO 127.0.0.1", "RSET"],
    ],
    ids=lambda lines: lines[0],
)
def test_nothing_said_before_makes_a_stranger_trusted(talk: Any, before: list[str]) -> None:
    fresh(talk)
    said(talk, *before)
    for parameter in ("", " AUTH=ada@example.test", " AUTH=<>"):
        replies = said(
            talk, "RSET", f"MAIL FROM:<ada@example.test>{parameter}", "RCPT TO:<dave@elsewhere.test>"
        )
        assert replies[-1][:1] == b"5", replies
    assert talk.spool.messages == []


def test_what_is_ours_is_taken_in_every_spelling(talk: Any) -> None:
    for form in (
        "ada@example.test",
        "ada@EXAMPLE.test",
        '"ada"@example.test',
        "@far.test:ada@example.test",
        "postmaster",
    ):
        fresh(talk)
        assert said(talk, "MAIL FROM:<>", f"RCPT TO:<{form}>")[-1][:3] == b"250", form
