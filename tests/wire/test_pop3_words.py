"""POP3's words in four languages: every text has the same fields, and the same meaning for machines."""

from string import Formatter

import pytest

from mailserver.wire.pop3_words import LANGUAGES, language_of


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


@pytest.mark.parametrize("tag", [tag for tag in LANGUAGES if tag != "en"])
def test_every_translation_fills_in_the_same(tag: str) -> None:
    found = language_of(tag)
    assert found is not None
    for english, words in found[1].items():
        assert fields(words) == fields(english), english
        assert words.isprintable() or "\u200c" in words or "\u200f" in words
        assert len(words.encode()) < 400  # a response has at most 512 octets (RFC 1939 §3)


def test_ranges_and_the_default() -> None:
    assert language_of("UK-ua") == language_of("uk")
    assert language_of("*") == ("en", {})
    assert language_of("de") is None
    assert language_of("") is None
