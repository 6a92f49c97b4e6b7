"""What terminals show: nothing that they would obey, and never without an end."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailserver.terminals.text import MOST_LINES, clean, shown_lines

HOSTILE = "\x1b[2J\x1b]0;title\x07\x9b31m\x08\x7f\x0e\u202eevil\u202c\u2066x\u2069\u200f\u2028\ud800"


def shown(content: bytes, sender: str = "bob@example.test") -> str:
    return "\n".join(shown_lines(content, sender, 0.0))


def has_controls(text: str) -> bool:
    return any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text.replace("\n", ""))


def test_a_message_is_shown_with_its_sender_subject_and_text() -> None:
    lines = shown_lines(b"From: Bob <bob@example.test>\r\nSubject: tea?\r\n\r\nAt five\r\n.\r\n", "b@x", 0.0)
    assert lines[0].endswith("message from <b@x>")
    assert lines[1:] == ["From: Bob <bob@example.test>", "Subject: tea?", "", "At five", ".", "---"]


def test_encoded_words_and_texts_are_read() -> None:
    content = (
        "Subject: =?utf-8?B?0L/RgNC40LLRltGC?=\r\nMIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: base64\r\n\r\n0YfQsNC5\r\n"
    )
    assert "Subject: привіт" in shown(content.encode())
    assert "чай" in shown(content.encode())


def test_nothing_that_a_terminal_obeys_is_shown() -> None:
    raw = HOSTILE.encode("utf-8", "surrogatepass")
    for content in (
        b"Subject: " + raw + b"\r\n\r\n" + raw + b"\r\n",
        b"Content-Type: text/plain; charset=latin-1\r\n\r\n\x9b31m \x1b[2J\r\n",
        b"Content-Transfer-Encoding: base64\r\n\r\nG1sySg==\r\n",
        b"Subject: =?utf-8?Q?=1b[2J=c2=9b31m?=\r\n\r\n",
    ):
        assert not has_controls(shown(content, HOSTILE)), content


def test_joiners_of_persian_words_stay() -> None:
    assert clean("می\u200cخواهم") == "می\u200cخواهم"


def test_a_long_message_has_an_end() -> None:
    lines = shown_lines(b"\r\n" + b"x\r\n" * 10_000, "b@x", 0.0)
    assert lines[-2] == f"({10_000 - MOST_LINES} more lines)"
    assert len(lines) < MOST_LINES + 10
    assert all(len(line) <= 120 for line in shown_lines(b"\r\n" + b"y" * 50_000, "b@x", 0.0))
    assert len(shown(b"\r\n" + b"y" * 50_000)) < 1000


def test_html_attachments_and_broken_messages_are_told_in_words() -> None:
    assert "no plain text" in shown(b"Content-Type: text/html\r\n\r\n<b>\r\n")
    assert "---" in shown(b"Content-Type: text/plain; charset=no-such\r\n\r\nx\xff\r\n")
    assert "---" in shown(b"")


@given(st.binary(max_size=300), st.text(max_size=80))
def test_whatever_comes_is_clean(content: bytes, sender: str) -> None:
    text = shown(b"Subject: x\r\n" + content, sender)
    assert not has_controls(text.replace("\u200c", "").replace("\u200d", ""))


def nested(depth: int) -> bytes:
    parts = (b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(depth))
    return b"".join(parts) + b"\r\nx\r\n"


def test_the_text_of_a_message_with_attachments_is_found() -> None:
    content = (
        b'Content-Type: multipart/mixed; boundary="o (1)"\r\n\r\npreamble\r\n--o (1)\r\n'
        b"Content-Type: multipart/alternative; boundary=i\r\n\r\n--i\r\n"
        b"Content-Type: text/plain;\r\n charset=iso-8859-1\r\n"
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\n"
        b"caf=E9\r\n--i\r\nContent-Type: text/html\r\n\r\n<p>\r\n--i--\r\n--o (1)--\r\n"
    )
    lines = shown(content).split("\n")
    assert lines[-2] == "café"
    assert "<p>" not in lines


# What Python's own parser of messages took seconds for, or ended in a RecursionError.
@pytest.mark.parametrize(
    "content",
    [
        nested(1100),
        b"Content-Type: text/plain; " + b"a*0*=x;" * 8000 + b"\r\n\r\nx",
        b"From: " + b'"a" <a@b>,' * 6000 + b"\r\n\r\n",
        b"Content-Type: multipart/mixed; boundary=x\r\n\r\n" + b"--x\r\n\r\n" * 8000,
        b"Subject: x" + b"\r\n a" * 15000 + b"\r\n\r\nx",
        b"Subject: " + b"=?utf-8?Q?a?= " * 4000 + b"\r\n\r\nx",
    ],
    ids=["nested", "parameters", "addresses", "parts", "folded", "words"],
)
def test_a_hostile_message_costs_few_steps(content: bytes) -> None:
    steps = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal steps
        steps += 1

    sys.setprofile(count)
    try:
        shown_lines(content, "b@x", 0.0)
    finally:
        sys.setprofile(None)
    assert steps < 5000
