"""The server's side of POP3 as a machine without sockets (RFC 1939, 2449, 2595, 3206, 5034).

Octets go in by ``feed``, responses come out of ``take_output``, and ``next_event`` gives what the
machine cannot answer alone.  While an event waits for its answer the machine is silent, whatever
was fed meanwhile: pipelined commands are answered in order.
"""

from __future__ import annotations

from collections.abc import Callable

from mailserver.wire.lines import LineBuffer, LineTooLong
from mailserver.wire.pop3_apop import apop_response, new_timestamp
from mailserver.wire.pop3_events import (
    Apop,
    AuthBegin,
    AuthResponse,
    Event,
    HangUp,
    LogIn,
    Retrieve,
    StartTLS,
    Transmit,
    Update,
    XClient,
)
from mailserver.wire.pop3_mail import Columns, Pop3Mail
from mailserver.wire.pop3_offer import Pop3Offer, capabilities, choose_language
from mailserver.wire.pop3_replies import Replies
from mailserver.wire.pop3_table import (
    COMMANDS,
    CommandWrong,
    Situation,
    SyntaxWrong,
    nothing,
    text,
    why_illegal,
)
from mailserver.wire.pop3_xclient import xclient
from mailserver.wire.sasl import MAX_PASSWORD_OCTETS, SaslError, decode_base64, encode_base64
from mailserver.wire.sasl_mechanisms import usable

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

_SENDING = (Transmit, Retrieve)
_LOGIN_EVENTS = (LogIn, Apop, AuthBegin, AuthResponse)


class Pop3Server:
    """One session. Never raises because of what was fed.

    ``proxied``: the client may tell by XCLIENT whom it speaks for.
    """

    def __init__(self, offer: Pop3Offer, tls: bool = False, proxied: bool = False) -> None:
        self._offer = offer
        self._tls = tls
        self._proxied = proxied
        self._lines = LineBuffer(MAX_LINE, self._longer_lines)
        self._replies = Replies()
        self.take_output = self._replies.take
        """Everything queued since the last call, for one write."""
        self._unanswered: Event | None = None
        self._closing = False
        self._closed = False
        self._bad_commands = 0
        self._failed_logins = 0
        self._username: str | None = None
        self._timestamp = b""
        self._in_exchange = False
        self._mail: Pop3Mail | None = None
        self._mail_actions: dict[bytes, Callable[[bytes], Event | None]] = {}
        self._said_ok = False
        self._unopened: tuple[str, str] | None = None
        self.is_utf8 = False
        self._situation = self._before_login()

    # -- octets --------------------------------------------------------------------------------

    @property
    def pending_octets(self) -> int:
        """Octets fed and not yet looked at; stop reading while they are many."""
        return self._lines.pending

    @property
    def is_resting(self) -> bool:
        """Whether ``next_event`` stopped because of unsent output, not for want of input."""
        return self._replies.queued >= OUTPUT_OCTETS

    @property
    def plaintext_pending(self) -> bool:
        """Whether something came behind STLS in clear, where anybody could have put it."""
        return isinstance(self._unanswered, StartTLS) and self._lines.pending > 0

    @property
    def has_marks(self) -> bool:
        """Whether something is marked as deleted."""
        return self._mail is not None and bool(self._mail.marked)

    @property
    def is_logged_in(self) -> bool:
        """Whether the session is in the TRANSACTION state."""
        return self._situation is Situation.TRANSACTION

    def feed(self, octets: bytes) -> None:
        """Take what the client sent, in pieces of any length."""
        if not self._closing:
            self._lines.feed(octets)

    def send(self, octets: bytes) -> None:
        """Queue octets of an event's answer behind what is queued."""
        self._replies.put(octets)

    def forget(self) -> None:
        """The session is over: nothing leads from here back to here, so memory is free at once."""
        self._lines = LineBuffer(MAX_LINE)
        self._mail_actions.clear()
        self._mail = None

    def greet(self) -> None:
        """Queue the greeting; with a timestamp in it where APOP is offered (RFC 1939 §4, §7).

        ``[XCLIENT]`` tells a proxy that it may speak for others, as Dovecot's tell each other.
        """
        self._timestamp = new_timestamp(self._offer.hostname) if self._offer.apop else b""
        name = f"[XCLIENT] {self._offer.hostname}" if self._proxied else self._offer.hostname
        if self._timestamp:
            self._replies.ok("{name} POP3 ready {timestamp}", name=name, timestamp=self._timestamp.decode())
        else:
            self._replies.ok("{name} POP3 ready", name=name)

    def end(self, why: str, code: str = "") -> None:
        """End the session from our side: queue ``-ERR [code] why``, take no further command."""
        self._replies.err(why, code)
        self._hang_up()

    def next_event(self) -> Event | None:
        """What to do next; ``None`` when there is nothing to do before more is fed or answered."""
        lines, replies = self._lines, self._replies
        while self._unanswered is None and not self._closing and replies.queued < OUTPUT_OCTETS:
            try:
                line = lines.next_line()
            except LineTooLong:
                self._in_exchange = False
                self._bad("Line too long")
                continue
            if line is None:
                return None
            event = self._unanswered = self._take_line(line)
            if event is not None:
                return event
        if self._closing and not self._closed:
            self._closed = True
            return HangUp()
        return None

    # -- answers -------------------------------------------------------------------------------

    def opening(self) -> None:
        """Tell that somebody is logged in and has the lock, while the snapshot is still being taken.

        The log-in's event still waits for ``logged_in`` or ``opening_failed``, and so do commands.
        """
        if not isinstance(self._unanswered, _LOGIN_EVENTS):
            raise RuntimeError(f"{self._unanswered!r} is no log-in")
        self._said_ok = True
        self._situation = Situation.TRANSACTION
        self._replies.ok("Logged in, the maildrop is being opened")

    def logged_in(self, listings: Columns) -> None:
        """Answer a log-in: the maildrop is open and locked, and this is its snapshot."""
        self._answered(*_LOGIN_EVENTS)
        self._mail = Pop3Mail(self._replies, listings)
        self._mail_actions = self._mail.actions
        self._situation = Situation.TRANSACTION
        self._bad_commands = 0
        if not self._said_ok:
            self._replies.ok("Logged in, " + self._mail.summary_words, **self._mail.summary())

    def opening_failed(self, code: str, why: str) -> None:
        """After ``opening``: there is no snapshot, as the first command is told."""
        self._answered(*_LOGIN_EVENTS)
        self._unopened = why, code

    def login_refused(self, code: str, why: str, counts: bool = True, **values: object) -> None:
        """Answer a log-in: ``-ERR [code] why``. Codes are RFC 3206's and RFC 2449's (§8.1).

        ``counts`` is false for a fault of ours, which must not end the session.
        """
        self._answered(*_LOGIN_EVENTS)
        self._failed_logins += counts
        self._replies.err(why, code, **values)
        if self._failed_logins >= FAILED_LOGINS:
            self._hang_up()

    def challenge(self, octets: bytes) -> None:
        """Answer ``AuthBegin`` or ``AuthResponse``: the mechanism asks for more (RFC 5034 §4)."""
        self._answered(AuthBegin, AuthResponse)
        self._in_exchange = True
        self._replies.put(b"+ %b\r\n" % encode_base64(octets))

    def auth_failed(self, why: str) -> None:
        """Answer ``AuthBegin`` or ``AuthResponse``: it was none of what the mechanism takes."""
        self._answered(AuthBegin, AuthResponse)
        self._bad(why)

    def moved(self) -> None:
        """Answer ``XClient``: the client is the one that it speaks for."""
        self._answered(XClient)
        self._replies.ok("Updated")

    def tls_started(self) -> None:
        """Answer ``StartTLS``: forget everything said in clear (RFC 2595 §4)."""
        self._answered(StartTLS)
        self._lines.clear()
        self._username = None
        self._replies.words, self.is_utf8 = {}, False
        self._tls = True
        self._situation = self._before_login()

    def transmitted(self, last: bytes = b"") -> None:
        """Answer ``Transmit`` or ``Retrieve``: all of it was sent, with ``last``, which is queued."""
        if type(self._unanswered) not in _SENDING:
            self._answered(*_SENDING)
        self._unanswered = None
        if last:
            self._replies.put(last)

    def refuse(self, why: str, code: str = "") -> None:
        """Answer ``Retrieve``: the message cannot be read; nothing of it was sent."""
        self._answered(Retrieve)
        self._replies.err(why, code)

    def updated(self, failures: int) -> None:
        """Answer ``Update`` with how many marked messages could not be removed (RFC 1939 §6)."""
        self._answered(Update)
        if failures:
            self._replies.err("some deleted messages not removed", "SYS/TEMP")
        else:
            self._replies.ok("Goodbye")
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
        verb, _, rest = line.partition(b" ")
        verb = verb.upper()
        # Most lines by far: commands of the TRANSACTION state, in it; before it, there are no such actions.
        action = self._mail_actions.get(verb)
        try:
            return action(rest) if action is not None else self._other_line(line, verb, rest)
        except SyntaxWrong:
            self._bad("Syntax: {syntax}", syntax=COMMANDS[verb].syntax)
        except CommandWrong as wrong:
            self._bad(str(wrong), **wrong.values)
        return None

    def _other_line(self, line: bytes, verb: bytes, rest: bytes) -> Event | None:
        if self._unopened is not None:
            self.end(*self._unopened)
            return None
        return self._auth_response(line) if self._in_exchange else self._other_command(verb, rest)

    def _other_command(self, verb: bytes, rest: bytes) -> Event | None:
        command = COMMANDS.get(verb)
        if command is None or (verb in _RARE and not self._is_offered(verb)):
            raise CommandWrong("Unknown command")
        if self._situation not in command.legal:
            raise CommandWrong(why_illegal(verb, self._situation))
        return _ACTIONS[verb](self, rest)

    def _is_offered(self, verb: bytes) -> bool:
        return self._offer.apop if verb == b"APOP" else self._proxied

    def _bad(self, why: str, **values: object) -> None:
        """Explain, count, and end the session of somebody who does not speak POP3."""
        budget = BAD_COMMANDS_AFTER_LOGIN if self.is_logged_in else BAD_COMMANDS_BEFORE_LOGIN
        self._bad_commands += 1
        if self._bad_commands > budget:
            self.end("Too many wrong commands")
        else:
            self._replies.put(self._replies.line("-ERR", why, **values))

    # -- commands ------------------------------------------------------------------------------

    def _before_login(self) -> Situation:
        if self._tls:
            return Situation.SECURE
        return Situation.CLEAR_ALLOWED if self._offer.allow_cleartext else Situation.CLEAR

    def _capa(self, rest: bytes) -> None:
        nothing(rest)
        told = capabilities(self._offer, self._situation, self._mechanisms, self._proxied)
        self._replies.put(b"+OK Capability list follows\r\n" + told)

    def _stls(self, rest: bytes) -> Event | None:
        nothing(rest)
        if not self._offer.stls:
            raise CommandWrong("STLS is not available here")
        self._replies.ok("Begin TLS")
        return StartTLS()

    def _xclient(self, rest: bytes) -> Event | None:
        return XClient(xclient(rest))

    def _user(self, rest: bytes) -> None:
        self._username = text(rest.strip(b" "))
        # The same for everybody: this must not tell who exists.
        self._replies.ok("Now the password: PASS password")

    def _pass(self, rest: bytes) -> Event | None:
        username, self._username = self._username, None
        if username is None:
            raise CommandWrong("Name first: USER name")
        # Spaces belong to the password, also at its end (RFC 1939 §7).
        return LogIn(username, text(rest))

    def _apop(self, rest: bytes) -> Event | None:
        return Apop(apop_response(rest, self._timestamp))

    @property
    def _mechanisms(self) -> tuple[str, ...]:
        return usable(self._offer.mechanisms, self._tls)

    def _auth(self, rest: bytes) -> Event | None:
        words = rest.split()
        if not words:
            self._replies.put("\r\n".join(["+OK Mechanisms follow", *self._mechanisms, ".", ""]).encode())
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

    def _utf8(self, rest: bytes) -> None:
        nothing(rest)
        self.is_utf8 = True
        self._replies.ok("UTF8 enabled")

    def _lang(self, rest: bytes) -> None:
        choose_language(self._replies, rest)

    def _quit(self, rest: bytes) -> Event | None:
        nothing(rest)
        if self._mail is not None:
            return Update(frozenset(self._mail.marked))
        self._replies.ok("Goodbye")
        self._hang_up()
        return None

    def _hang_up(self) -> None:
        self._closing = True
        self._unanswered = None
        self._lines.clear()


_RARE = (b"APOP", b"XCLIENT")
"""Commands that are unknown where nobody has turned them on."""

_ACTIONS: dict[bytes, Callable[[Pop3Server, bytes], Event | None]] = {
    b"CAPA": Pop3Server._capa,
    b"STLS": Pop3Server._stls,
    b"XCLIENT": Pop3Server._xclient,
    b"USER": Pop3Server._user,
    b"PASS": Pop3Server._pass,
    b"APOP": Pop3Server._apop,
    b"AUTH": Pop3Server._auth,
    b"LANG": Pop3Server._lang,
    b"UTF8": Pop3Server._utf8,
    b"QUIT": Pop3Server._quit,
}


def _decoded(response: bytes) -> bytes:
    try:
        return decode_base64(response)
    except SaslError as error:
        raise CommandWrong(str(error)) from None
