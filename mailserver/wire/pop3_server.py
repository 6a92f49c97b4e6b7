"""The server's side of POP3 as a machine without sockets (RFC 1939, 2449, 2595, 3206, 5034).

Octets go in by ``feed``, responses come out of ``take_output``, and ``next_event`` gives what the
machine cannot answer alone.  While an event waits for its answer the machine is silent, whatever
was fed meanwhile: pipelined commands are answered in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from mailserver.wire.lines import LineBuffer, LineTooLong
from mailserver.wire.pop3_events import (
    AuthBegin,
    AuthResponse,
    Event,
    HangUp,
    LogIn,
    Retrieve,
    StartTLS,
    Transmit,
    Update,
)
from mailserver.wire.pop3_table import (
    COMMANDS,
    CommandWrong,
    Situation,
    SyntaxWrong,
    nothing,
    number,
    text,
    why_illegal,
)
from mailserver.wire.pop3_words import LANGUAGES, Words, language_of
from mailserver.wire.sasl import MAX_PASSWORD_OCTETS, SaslError, decode_base64, encode_base64
from mailserver.wire.sasl_mechanisms import PASSWORDS, usable

MAX_LINE = MAX_PASSWORD_OCTETS + 5
"""Octets of a command line: ``PASS`` and the longest password. RFC 2449 §4 asks for 255."""

MAX_AUTH_LINE = 12288
"""Octets of an AUTH line or a response to a challenge (RFC 4954 §4, which RFC 5034 leaves open)."""

BAD_COMMANDS_BEFORE_LOGIN = 3
BAD_COMMANDS_AFTER_LOGIN = 20
"""So many wrong commands get an explanation; the next one ends the session."""

FAILED_LOGINS = 4
"""The last of so many log-ins that fail ends the session."""

OUTPUT_OCTETS = 32 * 1024
"""When so much output is queued, ``next_event`` rests until it is taken."""

LISTED_AT_ONCE = 500
"""Lines of LIST or UIDL that are queued in one go; a longer response is a ``Transmit``."""


class Listed(Protocol):
    """One message as the maildrop lists it: ``interfaces.Listing``."""

    @property
    def octets(self) -> int: ...
    @property
    def unique_id(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Pop3Offer:
    """What a listener offers.

    ``hostname`` stands in the greeting; ``stls`` tells that there is a certificate to start TLS
    with; ``allow_cleartext`` permits log-in without TLS; ``mechanisms`` are those of AUTH, in upper
    case, each offered where it works.  ``login_delay`` is told by CAPA, in seconds (RFC 2449 §6.5).
    """

    hostname: str
    stls: bool = False
    allow_cleartext: bool = False
    mechanisms: tuple[str, ...] = PASSWORDS
    login_delay: int = 0


class Pop3Server:
    """One session. Never raises because of what was fed."""

    def __init__(self, offer: Pop3Offer, tls: bool = False) -> None:
        self._offer = offer
        self._tls = tls
        self._lines = LineBuffer(MAX_LINE, self._longer_lines)
        self._output: list[bytes] = []
        self._queued = 0
        self._unanswered: Event | None = None
        self._closing = False
        self._closed = False
        self._bad_commands = 0
        self._failed_logins = 0
        self._username: str | None = None
        self._in_exchange = False
        self._listings: Sequence[Listed] = ()
        self._marked: set[int] = set()
        self._octets = 0
        self._last = 0
        self._words: Words = {}
        self.is_utf8 = False
        self._situation = self._before_login()
        self._actions: dict[bytes, Callable[[bytes], Event | None]] = {
            b"CAPA": self._capa,
            b"STLS": self._stls,
            b"USER": self._user,
            b"PASS": self._pass,
            b"AUTH": self._auth,
            b"STAT": self._stat,
            b"LIST": self._list,
            b"RETR": self._retr,
            b"DELE": self._dele,
            b"NOOP": self._noop,
            b"RSET": self._rset,
            b"TOP": self._top,
            b"UIDL": self._uidl,
            b"LAST": self._last_accessed,
            b"LANG": self._lang,
            b"UTF8": self._utf8,
            b"QUIT": self._quit,
        }

    # -- octets --------------------------------------------------------------------------------

    @property
    def pending_octets(self) -> int:
        """Octets fed and not yet looked at; stop reading while they are many."""
        return self._lines.pending

    @property
    def is_resting(self) -> bool:
        """Whether ``next_event`` stopped because of unsent output, not for want of input."""
        return self._queued >= OUTPUT_OCTETS

    @property
    def plaintext_pending(self) -> bool:
        """Whether something came behind STLS in clear, where anybody could have put it."""
        return isinstance(self._unanswered, StartTLS) and self._lines.pending > 0

    @property
    def has_marks(self) -> bool:
        """Whether something is marked as deleted."""
        return bool(self._marked)

    @property
    def is_logged_in(self) -> bool:
        """Whether the session is in the TRANSACTION state."""
        return self._situation is Situation.TRANSACTION

    def feed(self, octets: bytes) -> None:
        """Take what the client sent, in pieces of any length."""
        if not self._closing:
            self._lines.feed(octets)

    def take_output(self) -> bytes:
        """Everything queued since the last call, for one write."""
        output = b"".join(self._output)
        self._output.clear()
        self._queued = 0
        return output

    def greet(self) -> None:
        """Queue the greeting. No timestamp in it: APOP is not offered (RFC 1939 §4, §7)."""
        self._ok("{name} POP3 ready", name=self._offer.hostname)

    def end(self, why: str, code: str = "") -> None:
        """End the session from our side: queue ``-ERR [code] why``, take no further command."""
        self._err(why, code)
        self._hang_up()

    def next_event(self) -> Event | None:
        """What to do next; ``None`` when there is nothing to do before more is fed or answered."""
        while self._unanswered is None and not self._closing and self._queued < OUTPUT_OCTETS:
            try:
                line = self._lines.next_line()
            except LineTooLong:
                self._too_long()
                continue
            if line is None:
                return None
            self._unanswered = self._take_line(line)
            if self._unanswered is not None:
                return self._unanswered
        if self._closing and not self._closed:
            self._closed = True
            return HangUp()
        return None

    # -- answers -------------------------------------------------------------------------------

    def logged_in(self, listings: Sequence[Listed]) -> None:
        """Answer a log-in: the maildrop is open and locked, and this is its snapshot."""
        self._answered(LogIn, AuthBegin, AuthResponse)
        self._listings = listings
        self._octets = sum(listing.octets for listing in listings)
        self._situation = Situation.TRANSACTION
        self._bad_commands = 0
        self._ok("Logged in, " + self._summary_words, **self._summary())

    def login_refused(self, code: str, why: str, counts: bool = True, **values: object) -> None:
        """Answer a log-in: ``-ERR [code] why``. Codes are RFC 3206's and RFC 2449's (§8.1).

        ``counts`` is false for a fault of ours, which must not end the session.
        """
        self._answered(LogIn, AuthBegin, AuthResponse)
        self._failed_logins += counts
        self._err(why, code, **values)
        if self._failed_logins >= FAILED_LOGINS:
            self._hang_up()

    def challenge(self, octets: bytes) -> None:
        """Answer ``AuthBegin`` or ``AuthResponse``: the mechanism asks for more (RFC 5034 §4)."""
        self._answered(AuthBegin, AuthResponse)
        self._in_exchange = True
        self._put(b"+ %b\r\n" % encode_base64(octets))

    def auth_failed(self, why: str) -> None:
        """Answer ``AuthBegin`` or ``AuthResponse``: it was none of what the mechanism takes."""
        self._answered(AuthBegin, AuthResponse)
        self._bad(why)

    def tls_started(self) -> None:
        """Answer ``StartTLS``: forget everything said in clear (RFC 2595 §4)."""
        self._answered(StartTLS)
        self._lines.clear()
        self._username = None
        self._words, self.is_utf8 = {}, False
        self._tls = True
        self._situation = self._before_login()

    def transmitted(self) -> None:
        """Answer ``Transmit`` or ``Retrieve``: all of it was sent."""
        self._answered(Transmit, Retrieve)

    def refuse(self, why: str, code: str = "") -> None:
        """Answer ``Retrieve``: the message cannot be read; nothing of it was sent."""
        self._answered(Retrieve)
        self._err(why, code)

    def updated(self, failures: int) -> None:
        """Answer ``Update`` with how many marked messages could not be removed (RFC 1939 §6)."""
        self._answered(Update)
        if failures:
            self._err("some deleted messages not removed", "SYS/TEMP")
        else:
            self._ok("Goodbye")
        self._hang_up()

    def _answered(self, *expected: type[Event]) -> None:
        if not isinstance(self._unanswered, expected):
            raise RuntimeError(f"{self._unanswered!r} does not take this answer")
        self._unanswered = None

    # -- lines ---------------------------------------------------------------------------------

    def _longer_lines(self, start: bytes) -> int:
        if self._in_exchange or start[:5].upper() == b"AUTH ":
            return MAX_AUTH_LINE
        return MAX_LINE

    def _take_line(self, line: bytes) -> Event | None:
        try:
            return self._auth_response(line) if self._in_exchange else self._command(line)
        except CommandWrong as wrong:
            self._bad(str(wrong), **wrong.values)
            return None

    def _command(self, line: bytes) -> Event | None:
        verb, _, rest = line.partition(b" ")
        verb = verb.upper()
        action = self._actions.get(verb)
        if action is None:
            raise CommandWrong("Unknown command")
        if self._situation not in COMMANDS[verb].legal:
            raise CommandWrong(why_illegal(verb, self._situation))
        try:
            return action(rest)
        except SyntaxWrong:
            raise CommandWrong("Syntax: {syntax}", syntax=COMMANDS[verb].syntax) from None

    def _too_long(self) -> None:
        self._in_exchange = False
        self._bad("Line too long")

    def _bad(self, why: str, **values: object) -> None:
        """Explain, count, and end the session of somebody who does not speak POP3."""
        budget = BAD_COMMANDS_AFTER_LOGIN if self.is_logged_in else BAD_COMMANDS_BEFORE_LOGIN
        self._bad_commands += 1
        if self._bad_commands > budget:
            self.end("Too many wrong commands")
        else:
            self._put(self._reply("-ERR", why, **values))

    # -- before log-in -------------------------------------------------------------------------

    def _before_login(self) -> Situation:
        if self._tls:
            return Situation.SECURE
        return Situation.CLEAR_ALLOWED if self._offer.allow_cleartext else Situation.CLEAR

    def _capa(self, rest: bytes) -> None:
        nothing(rest)
        self._put(b"+OK Capability list follows\r\n" + self._capabilities())

    def _capabilities(self) -> bytes:
        """RFC 2449 §6: USER and SASL stand in both states, STLS only where it is legal."""
        tags = ["TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING"]
        if self._situation is not Situation.CLEAR:
            tags += ["USER", " ".join(["SASL", *self._mechanisms])]
        if self._offer.stls and self._situation in COMMANDS[b"STLS"].legal:
            tags.append("STLS")
        tags += ["UTF8 USER", "LANG"]
        if self._offer.login_delay:
            tags.append(f"LOGIN-DELAY {self._offer.login_delay}")
        tags += ["EXPIRE NEVER", "IMPLEMENTATION mailserver", ".", ""]
        return "\r\n".join(tags).encode()

    def _stls(self, rest: bytes) -> Event | None:
        nothing(rest)
        if not self._offer.stls:
            raise CommandWrong("STLS is not available here")
        self._ok("Begin TLS")
        return StartTLS()

    def _user(self, rest: bytes) -> None:
        self._username = text(rest.strip(b" "))
        # The same for everybody: this must not tell who exists.
        self._ok("Now the password: PASS password")

    def _pass(self, rest: bytes) -> Event | None:
        username, self._username = self._username, None
        if username is None:
            raise CommandWrong("Name first: USER name")
        # Spaces belong to the password, also at its end (RFC 1939 §7).
        return LogIn(username, text(rest))

    @property
    def _mechanisms(self) -> tuple[str, ...]:
        return usable(self._offer.mechanisms, self._tls)

    def _auth(self, rest: bytes) -> Event | None:
        words = rest.split()
        if not words:
            self._put("\r\n".join(["+OK Mechanisms follow", *self._mechanisms, ".", ""]).encode())
            return None
        if len(words) > 2:
            raise SyntaxWrong
        name = words[0].decode("ascii", "replace").upper()
        if name not in self._mechanisms:
            raise CommandWrong(
                "Expected one of these mechanisms: {mechanisms}", mechanisms=" ".join(self._mechanisms)
            )
        return AuthBegin(name, _decoded(words[1]) if len(words) > 1 else None)

    def _auth_response(self, line: bytes) -> Event | None:
        self._in_exchange = False
        if line == b"*":
            raise CommandWrong("Cancelled")
        return AuthResponse(_decoded(line))

    # -- language (RFC 6856) -------------------------------------------------------------------

    def _utf8(self, rest: bytes) -> None:
        nothing(rest)
        self.is_utf8 = True
        self._ok("UTF8 enabled")

    def _lang(self, rest: bytes) -> None:
        tag = rest.strip(b" ").decode("ascii", "replace")
        if " " in tag:
            raise SyntaxWrong
        if not tag:
            lines = [f"{code} {name}\r\n" for code, name in LANGUAGES.items()]
            self._ok("Language listing follows:")
            self._put("".join([*lines, ".\r\n"]).encode())
            return
        found = language_of(tag)
        if found is None:
            self._err("There is no such language here; LANG lists those that there are")
            return
        code, self._words = found
        self._ok("{tag} From now on in English", tag=code)

    # -- after log-in --------------------------------------------------------------------------

    @property
    def _summary_words(self) -> str:
        one = len(self._listings) - len(self._marked) == 1
        return "1 message, {octets} octets" if one else "{messages} messages, {octets} octets"

    def _summary(self) -> dict[str, object]:
        return {"messages": len(self._listings) - len(self._marked), "octets": self._octets}

    def _message(self, word: bytes) -> int | None:
        """The index of the message that ``word`` numbers; ``None`` when there is none, which is told."""
        index = number(word) - 1
        if not 0 <= index < len(self._listings):
            self._err("No such message, there are {count}", count=len(self._listings))
        elif index in self._marked:
            self._err("Message {number} is marked as deleted", number=index + 1)
        else:
            return index
        return None

    def _stat(self, rest: bytes) -> None:
        nothing(rest)
        self._put(b"+OK %d %d\r\n" % (len(self._listings) - len(self._marked), self._octets))

    def _list(self, rest: bytes) -> Event | None:
        return self._tell(rest, self._octets_line)

    def _uidl(self, rest: bytes) -> Event | None:
        return self._tell(rest, self._unique_id_line)

    def _octets_line(self, index: int) -> str:
        return f"{index + 1} {self._listings[index].octets}\r\n"

    def _unique_id_line(self, index: int) -> str:
        return f"{index + 1} {self._listings[index].unique_id}\r\n"

    def _tell(self, rest: bytes, line_of: Callable[[int], str]) -> Event | None:
        """LIST and UIDL: one message, or all that are not marked, under the numbers they keep."""
        if word := rest.strip(b" "):
            index = self._message(word)
            if index is not None:
                self._put(f"+OK {line_of(index)}".encode())
            return None
        pieces = self._pieces(line_of)
        if len(self._listings) > LISTED_AT_ONCE:
            return Transmit(pieces)
        self._put(b"".join(pieces))
        return None

    def _pieces(self, line_of: Callable[[int], str]) -> Iterator[bytes]:
        yield self._reply("+OK", self._summary_words, **self._summary())
        marked = self._marked
        for start in range(0, len(self._listings), LISTED_AT_ONCE):
            indexes = range(start, min(start + LISTED_AT_ONCE, len(self._listings)))
            yield "".join([line_of(index) for index in indexes if index not in marked]).encode()
        yield b".\r\n"

    def _retr(self, rest: bytes) -> Event | None:
        index = self._message(rest.strip(b" "))
        if index is None:
            return None
        self._last = max(self._last, index + 1)
        return Retrieve(index, None, b"+OK %d octets\r\n" % self._listings[index].octets)

    def _top(self, rest: bytes) -> Event | None:
        words = rest.split()
        if len(words) != 2:
            raise SyntaxWrong
        lines = number(words[1])
        index = self._message(words[0])
        return None if index is None else Retrieve(index, lines, b"+OK Top of message follows\r\n")

    def _dele(self, rest: bytes) -> None:
        index = self._message(rest.strip(b" "))
        if index is not None:
            self._marked.add(index)
            self._last = max(self._last, index + 1)
            self._octets -= self._listings[index].octets
            self._ok("Message {number} marked as deleted", number=index + 1)

    def _rset(self, rest: bytes) -> None:
        nothing(rest)
        self._octets += sum(self._listings[index].octets for index in self._marked)
        self._marked.clear()
        self._last = 0
        self._ok(self._summary_words, **self._summary())

    def _last_accessed(self, rest: bytes) -> None:
        """The highest number read or marked in this session (RFC 1225; RFC 1939 has dropped it)."""
        nothing(rest)
        self._put(b"+OK %d\r\n" % self._last)

    def _noop(self, rest: bytes) -> None:
        nothing(rest)
        self._put(b"+OK\r\n")

    def _quit(self, rest: bytes) -> Event | None:
        nothing(rest)
        if self.is_logged_in:
            return Update(frozenset(self._marked))
        self._ok("Goodbye")
        self._hang_up()
        return None

    # -- responses -----------------------------------------------------------------------------

    def _put(self, octets: bytes) -> None:
        self._output.append(octets)
        self._queued += len(octets)

    def _reply(self, status: str, words: str, **values: object) -> bytes:
        """A line in the client's language; ``values`` go where ``words`` has their names."""
        words = self._words.get(words, words)
        return f"{status} {words.format(**values) if values else words}\r\n".encode()

    def _ok(self, words: str, **values: object) -> None:
        self._put(self._reply("+OK", words, **values))

    def _err(self, why: str, code: str = "", **values: object) -> None:
        """``code`` is a response code (RFC 2449 §8), which no language changes."""
        self._put(self._reply(f"-ERR [{code}]" if code else "-ERR", why, **values))

    def _hang_up(self) -> None:
        self._closing = True
        self._unanswered = None
        self._lines.clear()


def _decoded(response: bytes) -> bytes:
    try:
        return decode_base64(response)
    except SaslError as error:
        raise CommandWrong(str(error)) from None
