"""The one table of POP3 commands: what is legal when, and how each is written."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Situation(enum.Enum):
    """Where a session stands, as far as the table cares."""

    CLEAR = enum.auto()
    """Before log-in, without TLS: nobody logs in like that (RFC 8314 §3, RFC 2595 §2.1)."""

    CLEAR_ALLOWED = enum.auto()
    """Before log-in, without TLS, where the administrator allows it."""

    SECURE = enum.auto()
    """Before log-in, inside TLS."""

    TRANSACTION = enum.auto()
    """After log-in (RFC 1939 §5)."""


@dataclass(frozen=True, slots=True)
class Command:
    """One row. ``syntax`` is what an error quotes."""

    syntax: str
    legal: frozenset[Situation]


_NO_TLS = frozenset({Situation.CLEAR, Situation.CLEAR_ALLOWED})
_LOG_IN = frozenset({Situation.CLEAR_ALLOWED, Situation.SECURE})
_BEFORE = _NO_TLS | _LOG_IN
_MAIL = frozenset({Situation.TRANSACTION})
_ALWAYS = frozenset(Situation)

COMMANDS: dict[bytes, Command] = {
    # verb: syntax, legal                                              defined in
    b"CAPA": Command("CAPA", _ALWAYS),  #                              RFC 2449 §5
    b"STLS": Command("STLS", _NO_TLS),  #                              RFC 2595 §4
    b"USER": Command("USER name", _LOG_IN),  #                         RFC 1939 §7
    b"PASS": Command("PASS password", _LOG_IN),  #                     RFC 1939 §7
    b"AUTH": Command("AUTH mechanism [initial-response]", _LOG_IN),  # RFC 5034 §4
    b"APOP": Command("APOP name digest", _LOG_IN),  #                  RFC 1939 §7
    b"XCLIENT": Command("XCLIENT ADDR=address [PORT=number] [SESSION=text]", _BEFORE),
    b"STAT": Command("STAT", _MAIL),  #                                RFC 1939 §5
    b"LIST": Command("LIST [message-number]", _MAIL),
    b"RETR": Command("RETR message-number", _MAIL),
    b"DELE": Command("DELE message-number", _MAIL),
    b"NOOP": Command("NOOP", _MAIL),
    b"RSET": Command("RSET", _MAIL),
    b"TOP": Command("TOP message-number lines", _MAIL),  #             RFC 1939 §7
    b"UIDL": Command("UIDL [message-number]", _MAIL),
    b"LAST": Command("LAST", _MAIL),  #                                RFC 1225
    b"LANG": Command("LANG [language]", _ALWAYS),  #                   RFC 6856 §3
    b"UTF8": Command("UTF8", _BEFORE),  #                              RFC 6856 §2.1
    b"QUIT": Command("QUIT", _ALWAYS),  #                              RFC 1939 §4, §6
}


def why_illegal(verb: bytes, situation: Situation) -> str:
    """What somebody should have done who sent ``verb`` in a situation that does not allow it."""
    if situation is Situation.TRANSACTION:
        return "Already logged in"
    if situation is Situation.CLEAR:
        return "Start TLS first: STLS"
    if verb == b"STLS":
        return "TLS is active already"
    return "Log in first: USER name, then PASS password"


class CommandWrong(Exception):
    """The command cannot be served; the text says why and is shown to the client, with ``values`` where
    it has their names."""

    def __init__(self, why: str, **values: object) -> None:
        super().__init__(why)
        self.values = values


class SyntaxWrong(Exception):
    """The arguments are not what the command's ``syntax`` says."""


def nothing(rest: bytes) -> None:
    """No argument; spaces at the end are forgiven.

    Raises:
        SyntaxWrong: there is one.
    """
    if rest.strip(b" "):
        raise SyntaxWrong


def number(word: bytes) -> int:
    """One to ten ASCII digits: ``int`` alone would take signs, underscores and other alphabets.

    Spaces around them are forgiven.

    Raises:
        SyntaxWrong: anything else.
    """
    if not word.isdigit():
        word = word.strip(b" ")
        if not word.isdigit():
            raise SyntaxWrong
    if len(word) > 10:
        raise SyntaxWrong
    return int(word)


def text(octets: bytes) -> str:
    """A name or password: UTF-8 without NUL, not empty.

    Raises:
        SyntaxWrong: anything else.
    """
    try:
        decoded = octets.decode("utf-8")
    except UnicodeDecodeError:
        raise SyntaxWrong from None
    if not decoded or "\0" in decoded:
        raise SyntaxWrong
    return decoded
