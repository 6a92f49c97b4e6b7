"""What the server says to the people who use it, one file for each language, and how a text is filled in.

A file is plain data: ``TEXTS`` maps names to texts, and every language has the same names with the same
``{fields}``. A further language is a file, a line in ``LANGUAGES``, and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.header import Header
from functools import lru_cache
from importlib import import_module

LANGUAGES = {"en": "English", "tr": "Türkçe", "fa": "فارسی", "uk": "Українська"}
"""Language tag -> the language's own name for itself; the first is what is spoken where nobody chose."""

_RIGHT_TO_LEFT = frozenset({"fa"})
_OUR_WORDS = frozenset({"whom", "why"})
_ISOLATE, _END = "\u2068", "\u2069"  # FSI, PDI (Unicode UAX 9): what is between finds its own direction


@lru_cache(maxsize=len(LANGUAGES))
def texts_of(language: str) -> Mapping[str, str]:
    """The texts of a tag in ``LANGUAGES``; English for any other."""
    tag = known(language)
    texts: Mapping[str, str] = import_module(f"mailserver.words.{tag}").TEXTS
    return texts


def known(language: str) -> str:
    """``language`` when we speak it, or English."""
    return language if language in LANGUAGES else "en"


def say(language: str, name: str, **fields: object) -> str:
    """The text ``name`` with its fields filled in.

    Where the script runs from right to left, each field that is not such words itself is isolated: an
    address or a host's name in the middle of a sentence must not turn the words around it.
    """
    if known(language) in _RIGHT_TO_LEFT:
        fields = {
            key: value if key in _OUR_WORDS else f"{_ISOLATE}{value}{_END}" for key, value in fields.items()
        }
    return texts_of(language)[name].format(**fields)


def sentence(language: str, text: str) -> str:
    """``text`` with a capital at its beginning; a Turkish i keeps its dot."""
    first = "İ" if known(language) == "tr" and text[:1] == "i" else text[:1].upper()
    return first + text[1:]


def moment(language: str, seconds: float) -> str:
    """A date and time for people, as the language writes it; ``seconds`` since the epoch, local time."""
    return time.strftime(texts_of(language)["moment"], time.localtime(seconds))


def header_text(text: str) -> str:
    """``text`` for a Subject: as it is in ASCII, else in encoded words of RFC 2047, folded by CRLF."""
    return text if text.isascii() else Header(text, "utf-8", header_name="Subject").encode(linesep="\r\n")
