"""Every language says the same things, each in letters of its own, and no field turns a Persian sentence."""

from __future__ import annotations

import string
from email.header import decode_header, make_header

import pytest

from mailserver.words import LANGUAGES, header_text, moment, say, sentence, texts_of

OTHERS = [tag for tag in LANGUAGES if tag != "en"]


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("tag", OTHERS)
def test_a_language_has_every_text_with_the_same_fields(tag: str) -> None:
    english, texts = texts_of("en"), texts_of(tag)
    assert texts.keys() == english.keys()
    for name, text in texts.items():
        assert fields(text) == fields(english[name]), name
        if name not in ("moment", "answered"):
            assert text != english[name], name
        assert text.endswith("\n") == english[name].endswith("\n") or name == "answered", name


def test_a_language_nobody_speaks_is_english() -> None:
    assert texts_of("de") is texts_of("en") or texts_of("de") == texts_of("en")
    assert say("", "whom.one") == "the recipient below"


def test_persian_begins_with_a_letter_that_runs_from_the_right() -> None:
    for name, text in texts_of("fa").items():
        if name != "moment":
            # A field that begins a line would turn it for readers that do not know isolates.
            first = next(c for c in text if c.isalpha() or c == "{")
            assert "\u0600" <= first <= "\u06ff" or name == "whom.many", name


def test_what_is_filled_into_persian_is_isolated_unless_it_is_persian() -> None:
    text = say("fa", "failed.details", date="2026", hostname="mx.a.test")
    assert "\u2068mx.a.test\u2069" in text
    assert text.count("\u2068") == text.count("\u2069") == 2
    assert "\u2068" not in say("fa", "failed", whom=say("fa", "whom.one"), why=say("fa", "why.full"))
    assert "\u2068" not in say("tr", "failed.details", date="2026", hostname="mx.a.test")


def test_a_sentence_begins_with_the_languages_own_capital() -> None:
    assert sentence("tr", "ileti") == "İleti"
    assert sentence("tr", "alıcı") == "Alıcı"
    assert sentence("en", "it is") == "It is"
    assert sentence("uk", "домен") == "Домен"
    assert sentence("fa", "دامنه") == "دامنه"
    assert sentence("en", "") == ""


@pytest.mark.parametrize("tag", LANGUAGES)
def test_subjects_are_ascii_lines_that_decode(tag: str) -> None:
    for name in ("failed.subject", "delayed.subject", "hold.subject"):
        text = say(tag, name)
        header = header_text(text)
        assert header.isascii()
        assert max(map(len, header.split("\r\n"))) < 78
        assert str(make_header(decode_header(header))) == text


@pytest.mark.parametrize("tag", LANGUAGES)
def test_moments_are_digits_in_every_language(tag: str) -> None:
    assert "2026" in moment(tag, 1_790_000_000.0)
