"""The server's side of one SMTP session without a socket: octets in, events out, answers back."""

from __future__ import annotations

import binascii
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from mailserver.values.reply import Reply, reply
from mailserver.wire import grammar, smtp_help, smtp_parameters
from mailserver.wire.sasl_mechanisms import usable
from mailserver.wire.smtp_chunks import BinaryScanner, ChunkReader, TextScanner, chunk_from
from mailserver.wire.smtp_data import ContentScanner
from mailserver.wire.smtp_events import (
    AuthBegin,
    AuthResponse,
    ContentChunk,
    ContentEnd,
    DataBegin,
    Event,
    Expand,
    Hello,
    MailFrom,
    Offer,
    Quit,
    RcptTo,
    Refused,
    Reset,
    StartQueue,
    StartTLS,
    Verify,
)
from mailserver.wire.smtp_table import (
    ATTEMPTED,
    AUTH_LINE_OCTETS,
    AUTHENTICATED,
    BINARY,
    CHUNKED,
    COMMANDS,
    ENTITLED,
    FUTURE_RELEASE,
    HELLO,
    IN_TRANSACTION,
    LINE_OCTETS,
    LMTP,
    RECIPIENT,
    TLS,
    TRANSACTION,
    Command,
    facts_at_start,
)

IDLE_COMMANDS = 100
"""NOOP and HELP answered between two messages; those after them count as errors."""

_CONTROLS = bytes([*range(0x20), 0x7F])
_NAME_OCTETS = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_:[]")
_CLEAN = bytes(n if n in _NAME_OCTETS else ord("?") for n in range(256))

# What the next octets are; the first two come in lines, and lines may follow the third in one piece.
_COMMANDS, _EXCHANGE, _CHUNK, _CONTENT, _HANDSHAKE, _CLOSED = range(6)

_DONE = b"250 2.0.0 OK\r\n"
_CHUNK_DONE = b"250 2.0.0 Chunk received\r\n"
# What follows the line cannot be told from commands any more, so nothing of it is read.
_BAD_CHUNK = reply(501, "5.5.4", "Syntax: BDAT octets [LAST]; closing the connection", hang_up=True)
_LINE_TOO_LONG = reply(500, "5.5.2", "Command line too long")
_EXCHANGE_TOO_LONG = reply(500, "5.5.6", "Authentication exchange line too long")
_EMPTY = reply(500, "5.5.2", "Empty command; HELP lists the commands")
_CONTROL_OCTETS = reply(500, "5.5.2", "Control characters are not allowed in a command")
_UNKNOWN = reply(500, "5.5.1", "Unknown command; HELP lists the commands")
_NAME_TOO_LONG = reply(501, "5.5.4", "A host name has at most 255 octets")
_BAD_BASE64 = reply(501, "5.5.2", "Not valid base64")
_BAD_MECHANISM = reply(504, "5.5.4", "Unknown authentication mechanism; EHLO lists them")
_TOO_MANY_RECIPIENTS = reply(452, "4.5.3", "Too many recipients; send the message again to the others")
_TOO_LARGE = reply(552, "5.3.4", "Message size exceeds the limit")
_NEEDS_SMTPUTF8 = reply(553, "5.6.7", "An address outside ASCII needs SMTPUTF8 on MAIL")
_TWO_RELEASES = reply(501, "5.5.4", "HOLDFOR and HOLDUNTIL exclude each other")
_NO_DOMAIN = reply(501, "5.5.4", "Syntax: ETRN domain")
_TOO_IDLE = reply(450, "4.7.0", "Too many commands without a message")


@lru_cache(maxsize=1024)
def _octets(answer: Reply) -> bytes:
    return answer.encode()


@lru_cache(maxsize=1024)
def _welcome(offer: Offer, facts: int, answer: Reply, extended: bool, latest: str) -> bytes:
    """The reply that begins with our name and, for EHLO, goes on with what is offered now."""
    first, *others = answer.lines
    if first.partition(" ")[0] != offer.hostname:
        first = f"{offer.hostname} {first}".rstrip()
    offered = smtp_help.extensions(offer, facts, latest) if extended else ()
    return Reply(250, "", (first, *others, *offered)).encode()


class SmtpServer:
    """One session. ``feed`` octets, take events one at a time, ``answer`` each, send the output.

    One command is in work at a time: while an event waits for its answer ``next_event`` gives
    ``None`` and what is fed is kept, so the caller should stop reading.  Whatever the octets are,
    they become events and replies; no method raises for them.

    A command line may end in a bare LF, for people with netcat; content may not (see
    ``ContentScanner``).  Addresses are parsed as ``grammar.path`` says.

    BDAT's octets are counted, not searched; those of a refused one are read and dropped before the
    refusal is said (RFC 3030 §2).  A BDAT that cannot be read ends the session: nobody could tell
    what follows it from commands.

    ``now`` gives seconds since the epoch, for FUTURERELEASE in the EHLO reply.

    ``plaintext_pending`` is true when octets came behind STARTTLS before TLS had begun: an
    injection, or a client that does not follow RFC 3207 §4; they are dropped, and the connection
    should be.
    """

    __slots__ = (
        "_at_hand",
        "_buffer",
        "_chunk_refusal",
        "_chunks",
        "_commands",
        "_facts",
        "_idle",
        "_mode",
        "_now",
        "_offer",
        "_output",
        "_position",
        "_recipients",
        "_scanner",
        "_smtputf8",
        "_swallowing",
        "plaintext_pending",
    )

    def __init__(self, offer: Offer, now: Callable[[], float] = time.time) -> None:
        self.plaintext_pending = False
        self._offer = offer
        self._now = now
        self._commands = _READERS[offer.role]
        self._facts = facts_at_start(offer, tls=False)
        self._mode = _COMMANDS
        self._buffer = b""
        self._position = 0
        self._swallowing = False
        self._output: list[bytes] = []
        self._at_hand: Event | None = None
        self._scanner: ContentScanner | None = None
        self._chunks: ChunkReader | None = None
        self._chunk_refusal: tuple[Reply, int] | None = None
        self._recipients = 0
        self._smtputf8 = False
        self._idle = 0

    # -- what the session has come to ----------------------------------------------------------

    @property
    def is_reading_content(self) -> bool:
        """Whether content is on its way: between 354 and the end of data, or between first and last BDAT."""
        return self._at_hand is None and (self._mode == _CONTENT or self._facts & CHUNKED != 0)

    @property
    def is_handshaking(self) -> bool:
        """Whether STARTTLS was answered with 220 and TLS is not active yet."""
        return self._mode == _HANDSHAKE

    @property
    def authenticated(self) -> bool:
        """Whether AUTH was answered with 235."""
        return self._facts & AUTHENTICATED != 0

    @property
    def in_transaction(self) -> bool:
        """Whether MAIL was accepted and the transaction has not ended."""
        return self._facts & TRANSACTION != 0

    # -- octets --------------------------------------------------------------------------------

    def greet(self) -> None:
        """Queue the greeting (RFC 5321 §3.1)."""
        protocol = "LMTP" if self._offer.role == LMTP else "ESMTP"
        self._output.append(
            f"220 {self._offer.hostname} {protocol} ready; HELP lists the commands\r\n".encode()
        )

    def feed(self, octets: bytes) -> None:
        """Take octets from the client."""
        if self._mode == _HANDSHAKE:
            self.plaintext_pending = self.plaintext_pending or bool(octets)
        elif self._mode != _CLOSED:
            if self._position == len(self._buffer):
                self._buffer = octets
            else:
                self._buffer = self._buffer[self._position :] + octets
            self._position = 0

    def take_output(self) -> bytes:
        """Everything queued since the last call, for one write."""
        output = b"".join(self._output)
        self._output.clear()
        return output

    def tls_started(self) -> None:
        """TLS is active: nothing said before it counts any more (RFC 3207 §4.2).

        Call it also before the greeting where TLS begins with the first octet (RFC 8314 §3.3).
        """
        self._end_transaction()
        self._facts = facts_at_start(self._offer, tls=True)
        self._mode = _COMMANDS
        self._drop_buffer()
        self._swallowing = False
        self._at_hand = None
        self._idle = 0

    # -- events --------------------------------------------------------------------------------

    def next_event(self) -> Event | None:
        """What the client said next; ``None``: feed more, or answer what is at hand."""
        if self._at_hand is not None:
            return None
        if self._mode == _CONTENT:
            return self._next_content()
        while self._mode <= _CHUNK:
            if self._mode == _CHUNK:
                event = self._next_chunk()
                if event is not None or self._mode == _CHUNK:
                    return event
                continue
            if self._swallowing and not self._swallow():
                return None
            buffer, begin = self._buffer, self._position
            end = buffer.find(b"\n", begin)
            length = (end if end >= 0 else len(buffer)) - begin
            if length > LINE_OCTETS and length > self._longest_line():
                return self._refuse_overlong()
            if end < 0:
                return None
            self._position = end + 1
            line = buffer[begin : end - 1] if end and buffer[end - 1] == 0x0D else buffer[begin:end]
            event = self._exchange(line) if self._mode == _EXCHANGE else self._command(line)
            if event is not None:
                return event
        return None

    def _longest_line(self) -> int:
        if self._mode == _EXCHANGE:
            return AUTH_LINE_OCTETS
        row = COMMANDS[self._offer.role].get(self._first_word())
        return row.longest if row else LINE_OCTETS

    def _first_word(self) -> bytes:
        return self._buffer[self._position : self._position + 16].lstrip(b" ").partition(b" ")[0].upper()

    def _refuse_overlong(self) -> Event:
        """Refuse at once, then swallow the line to its end in bounded memory."""
        self._swallowing = True
        if self._mode == _EXCHANGE:
            self._mode = _COMMANDS
            return self._refuse(_EXCHANGE_TOO_LONG, "AUTH")
        verb = self._first_word()
        return self._refuse(_BAD_CHUNK if verb == b"BDAT" else _LINE_TOO_LONG, _shown(verb))

    def _swallow(self) -> bool:
        """Drop octets up to the next line feed; whether it was there."""
        end = self._buffer.find(b"\n", self._position)
        if end < 0:
            self._drop_buffer()
            return False
        self._position = end + 1
        self._swallowing = False
        return True

    def _drop_buffer(self) -> None:
        self._buffer = b""
        self._position = 0

    def _next_content(self) -> Event | None:
        scanner = self._scanner
        assert scanner is not None
        if not scanner.ended and self._position < len(self._buffer):
            chunk = scanner.scan(self._buffer[self._position :])
            self._buffer = scanner.rest
            self._position = 0
            if chunk:
                return ContentChunk(chunk)
        if scanner.ended:
            return self._ask(ContentEnd(scanner.fault))
        return None

    def _next_chunk(self) -> Event | None:
        """Octets that BDAT has announced; with ``None`` the chunk is at its end, or more must come."""
        if self._chunk_refusal is not None:
            return self._drop_octets(*self._chunk_refusal)
        chunks = self._chunks
        assert chunks is not None
        begin = self._position
        piece = self._buffer[begin : begin + chunks.left]
        if piece:
            self._position = begin + len(piece)
            if content := chunks.take(piece):
                return ContentChunk(content)
        if chunks.left:
            return None
        if chunks.is_last and (content := chunks.finish()):
            return ContentChunk(content)
        self._mode = _COMMANDS
        if chunks.is_last or chunks.fault:
            # A fault ends the transaction at once: later chunks then come without one.
            return self._ask(ContentEnd(chunks.fault))
        self._output.append(_CHUNK_DONE)
        return None

    def _drop_octets(self, refusal: Reply, left: int) -> Event | None:
        """Drop what belongs to a refused BDAT; then say why."""
        there = min(left, len(self._buffer) - self._position)
        self._position += there
        if there < left:
            self._chunk_refusal = refusal, left - there
            return None
        self._chunk_refusal = None
        self._mode = _COMMANDS
        return self._refuse(refusal, "BDAT")

    def _command(self, line: bytes) -> Event | None:
        if len(line.translate(None, _CONTROLS)) != len(line):
            verb = line.lstrip(b" ").partition(b" ")[0]
            return self._refuse(_BAD_CHUNK if verb.upper() == b"BDAT" else _CONTROL_OCTETS, _shown(verb))
        verb, _, argument = line.strip(b" ").partition(b" ")
        row = self._commands.get(verb) or self._commands.get(verb.upper())
        if row is None:
            return self._refuse(_UNKNOWN if verb else _EMPTY, _shown(verb))
        command, read = row
        objection = command.objection(self._facts)
        argument = argument.lstrip(b" ")
        if objection is not None:
            if command.verb == "BDAT":
                return self._refuse_chunk(argument, objection)
            return self._refuse(objection, command.verb)
        if argument if command.argument == "none" else not argument and command.argument == "needed":
            return self._refuse(command.bad_syntax, command.verb)
        return read(self, argument, command)

    def _ask(self, event: Event) -> Event:
        self._at_hand = event
        return event

    def _refuse(self, answer: Reply, command: str) -> Refused:
        self._output.append(_octets(answer))
        if answer.hang_up:
            self._close()
        return Refused(answer, command)

    # -- one command each ----------------------------------------------------------------------

    def _hello(self, argument: bytes, command: Command) -> Event:
        if len(argument) > grammar.DOMAIN_OCTETS:
            return self._refuse(_NAME_TOO_LONG, command.verb)
        self._end_transaction()
        return self._ask(Hello(argument.translate(_CLEAN).decode("ascii"), command.verb != "HELO"))

    def _mail(self, argument: bytes, command: Command) -> Event:
        try:
            path = grammar.path(argument, b"FROM:")
            if path is None:
                return self._refuse(command.bad_syntax, "MAIL")
            fields: Any = smtp_parameters.parse(path.rest, smtp_parameters.MAIL_PARAMETERS, self._facts)
        except grammar.Malformed as why:
            return self._refuse(_bad_path("5.1.7", "sender", why, command), "MAIL")
        except smtp_parameters.Unacceptable as why:
            return self._refuse(why.reply, "MAIL")
        event = MailFrom(path.address, **fields)
        refusal = self._mail_refusal(event)
        return self._refuse(refusal, "MAIL") if refusal else self._ask(event)

    def _mail_refusal(self, event: MailFrom) -> Reply | None:
        if not event.path.domain and event.path.local:
            return reply(501, "5.1.7", "A sender address needs @ and a domain")
        if not event.smtputf8 and not event.path.is_ascii:
            return _NEEDS_SMTPUTF8
        if event.hold_for and event.hold_until:
            return _TWO_RELEASES
        return _TOO_LARGE if event.size > self._offer.message_size else None

    def _rcpt(self, argument: bytes, command: Command) -> Event:
        self._facts |= ATTEMPTED
        try:
            path = grammar.path(argument, b"TO:")
            if path is None:
                return self._refuse(command.bad_syntax, "RCPT")
            fields: Any = smtp_parameters.parse(path.rest, smtp_parameters.RCPT_PARAMETERS)
        except grammar.Malformed as why:
            return self._refuse(_bad_path("5.1.3", "recipient", why, command), "RCPT")
        except smtp_parameters.Unacceptable as why:
            return self._refuse(why.reply, "RCPT")
        event = RcptTo(path.address, **fields)
        refusal = self._rcpt_refusal(event)
        return self._refuse(refusal, "RCPT") if refusal else self._ask(event)

    def _rcpt_refusal(self, event: RcptTo) -> Reply | None:
        if not event.path.local:
            return reply(501, "5.1.3", "A recipient address cannot be empty. Syntax: RCPT TO:<address>")
        if not self._smtputf8 and not (event.path.is_ascii and event.orcpt.isascii()):
            return _NEEDS_SMTPUTF8
        return _TOO_MANY_RECIPIENTS if self._recipients >= self._offer.recipients else None

    def _data(self, argument: bytes, command: Command) -> Event:
        return self._ask(DataBegin())

    def _bdat(self, argument: bytes, command: Command) -> Event | None:
        found = chunk_from(argument)
        if found is None:
            return self._refuse(_BAD_CHUNK, "BDAT")
        octets, is_last = found
        if not octets and not is_last:
            self._idle += 1
            if self._idle > IDLE_COMMANDS:
                return self._refuse(_TOO_IDLE, "BDAT")
        if self._chunks is None:
            binary = self._facts & BINARY != 0
            limit = self._offer.message_size
            scanner = BinaryScanner(limit) if binary else TextScanner(limit, normalize=self._offer.normalize)
            self._chunks = ChunkReader(scanner)
        self._chunks.begin(octets, is_last)
        if not self._facts & CHUNKED:
            return self._ask(DataBegin(chunked=True))
        self._mode = _CHUNK
        return None

    def _refuse_chunk(self, argument: bytes, refusal: Reply) -> Event | None:
        found = chunk_from(argument)
        if found is None:
            return self._refuse(_BAD_CHUNK, "BDAT")
        self._mode = _CHUNK
        return self._drop_octets(refusal, found[0])

    def _rset(self, argument: bytes, command: Command) -> Event:
        self._end_transaction()
        return self._ask(Reset())

    def _quit(self, argument: bytes, command: Command) -> Event:
        self._end_transaction()
        return self._ask(Quit())

    def _starttls(self, argument: bytes, command: Command) -> Event:
        return self._ask(StartTLS())

    def _noop(self, argument: bytes, command: Command) -> Event | None:
        return self._say(_DONE, command)

    def _help(self, argument: bytes, command: Command) -> Event | None:
        if not argument:
            return self._say(smtp_help.overview(self._offer, self._facts).encode(), command)
        row = COMMANDS[self._offer.role].get(argument.upper())
        if row is None:
            return self._refuse(smtp_help.NO_SUCH_TOPIC, "HELP")
        return self._say(smtp_help.topic(row, self._facts).encode(), command)

    def _say(self, octets: bytes, command: Command) -> Event | None:
        """Answer without asking anybody, unless the client does nothing else."""
        self._idle += 1
        if self._idle > IDLE_COMMANDS:
            return self._refuse(_TOO_IDLE, command.verb)
        self._output.append(octets)
        return None

    def _verify(self, argument: bytes, command: Command) -> Event:
        try:
            text = grammar.decoded(argument)
        except grammar.Malformed as why:
            return self._refuse(reply(501, "5.5.2", f"The argument is malformed: {why}"), command.verb)
        return self._ask(Verify(text) if command.verb == "VRFY" else Expand(text))

    def _etrn(self, argument: bytes, command: Command) -> Event:
        """RFC 1985 §5.2: ``@domain`` means its subdomains too, ``#name`` a queue by name; we have neither."""
        if argument[:1] in b"@#":
            return self._refuse(_NO_DOMAIN, command.verb)
        try:
            return self._ask(StartQueue(grammar.mailbox(b"etrn@" + argument).domain))
        except grammar.Malformed:
            return self._refuse(_NO_DOMAIN, command.verb)

    def _auth(self, argument: bytes, command: Command) -> Event:
        word, space, response = argument.partition(b" ")
        mechanism = word.upper().decode("latin-1")
        if mechanism not in usable(self._offer.mechanisms, self._facts & TLS != 0):
            return self._refuse(_BAD_MECHANISM, "AUTH")
        if not space:
            return self._ask(AuthBegin(mechanism, None))
        initial = b"" if response == b"=" else _from_base64(response)
        if initial is None or not response:
            return self._refuse(_BAD_BASE64, "AUTH")
        return self._ask(AuthBegin(mechanism, initial))

    def _exchange(self, line: bytes) -> Event:
        self._mode = _COMMANDS
        if line == b"*":
            return self._ask(AuthResponse(None))
        octets = _from_base64(line)
        if octets is None:
            return self._refuse(_BAD_BASE64, "AUTH")
        return self._ask(AuthResponse(octets))

    def _absent(self, argument: bytes, command: Command) -> Event:
        return self._refuse(_UNKNOWN, command.verb)  # never reached: its row has a condition that never holds

    # -- answers -------------------------------------------------------------------------------

    def answer(self, reply: Reply) -> None:
        """Answer the event at hand and let the reply decide what comes next.

        Without one the reply is only queued: the 421 before a connection is dropped (RFC 5321
        §3.8).  After ``reply.hang_up`` nothing more is read.
        """
        event, self._at_hand = self._at_hand, None
        kind = type(event)
        if kind is Hello:
            self._answer_hello(reply, event)
        elif kind is DataBegin and event.chunked:  # type: ignore[union-attr]
            self._begin_chunks(reply)
        else:
            # A reply to the end of data names the message, so caching it would only waste memory.
            self._output.append(self._last_words(reply) if kind is ContentEnd else _octets(reply))
            follow = _FOLLOW.get(kind)
            if follow is not None:
                follow(self, reply, event)
        if reply.hang_up:
            self._close()

    def _close(self) -> None:
        """Nothing more is read."""
        self._mode = _CLOSED
        self._drop_buffer()

    def _last_words(self, reply: Reply) -> bytes:
        """The reply to the end of data; over LMTP once for each recipient, but for a piece that was
        not the last (RFC 2033 §4.2, §4.3)."""
        octets = reply.encode()
        if self._offer.role == LMTP and not reply.hang_up and (self._chunks is None or self._chunks.is_last):
            return octets * self._recipients
        return octets

    def _begin_chunks(self, answer: Reply) -> None:
        """BDAT is answered after its octets: go on to them, or drop them."""
        chunks = self._chunks
        assert chunks is not None
        if answer.hang_up:
            self._output.append(_octets(answer))
            return
        self._mode = _CHUNK
        if answer.code == 354:
            self._facts |= CHUNKED
            return
        octets = chunks.left
        self._end_transaction()
        self._chunk_refusal = answer, octets

    def challenge(self, octets: bytes) -> None:
        """Answer ``AuthBegin`` or ``AuthResponse`` with 334 and a challenge, which may be empty."""
        self._at_hand = None
        self._mode = _EXCHANGE
        self._output.append(b"334 " + binascii.b2a_base64(octets, newline=False) + b"\r\n")

    def _answer_hello(self, answer: Reply, event: Any) -> None:
        if answer.is_positive:
            self._facts |= HELLO
            self._output.append(
                _welcome(self._offer, self._facts, answer, event.extended, self._latest_release())
            )
        else:
            self._output.append(_octets(answer))

    def _latest_release(self) -> str:
        """Until when a release may be put off (RFC 4865 §3.2), to the hour, so that few replies differ."""
        if not self._facts & FUTURE_RELEASE:
            return ""
        latest = self._now() + self._offer.future_release
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(latest // 3600 * 3600))

    def _after_mail(self, answer: Reply, event: Any) -> None:
        if answer.is_positive:
            self._facts |= TRANSACTION | BINARY if event.body == "BINARYMIME" else TRANSACTION
            self._smtputf8 = event.smtputf8

    def _after_rcpt(self, answer: Reply, event: Any) -> None:
        if answer.is_positive:
            self._facts |= RECIPIENT
            self._recipients += 1

    def _after_data(self, answer: Reply, event: Any) -> None:
        if answer.code == 354:
            self._mode = _CONTENT
            self._scanner = ContentScanner(self._offer.message_size, normalize=self._offer.normalize)
        else:
            self._end_transaction()

    def _after_content(self, answer: Reply, event: Any) -> None:
        self._mode = _COMMANDS
        self._end_transaction()
        if answer.is_positive:
            self._idle = 0

    def _after_starttls(self, answer: Reply, event: Any) -> None:
        if answer.is_positive:
            self._mode = _HANDSHAKE
            self.plaintext_pending = self._position < len(self._buffer)
            self._drop_buffer()

    def _after_auth(self, answer: Reply, event: Any) -> None:
        if answer.code == 334:
            self._mode = _EXCHANGE
        elif answer.is_positive:
            self._facts |= AUTHENTICATED | ENTITLED

    def _after_quit(self, answer: Reply, event: Any) -> None:
        self._close()

    def _end_transaction(self) -> None:
        """The only place where a transaction ends; every way out of it leads here."""
        self._facts &= ~IN_TRANSACTION
        self._recipients = 0
        self._smtputf8 = False
        self._scanner = None
        self._chunks = None


def _shown(verb: bytes) -> str:
    """What of an unknown verb may stand in a log: never an argument, which could be a password."""
    return verb[:16].upper().translate(_CLEAN).decode("ascii")


def _bad_path(enhanced: str, whose: str, why: Exception, command: Command) -> Reply:
    return reply(501, enhanced, f"Bad {whose} address: {why}. Syntax: {command.syntax}")


def _from_base64(text: bytes) -> bytes | None:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        return None


_Reader = Callable[[SmtpServer, bytes, Command], Event | None]

_READER_OF: dict[str, _Reader] = {
    "EHLO": SmtpServer._hello,
    "LHLO": SmtpServer._hello,
    "HELO": SmtpServer._hello,
    "STARTTLS": SmtpServer._starttls,
    "AUTH": SmtpServer._auth,
    "MAIL": SmtpServer._mail,
    "RCPT": SmtpServer._rcpt,
    "DATA": SmtpServer._data,
    "BDAT": SmtpServer._bdat,
    "RSET": SmtpServer._rset,
    "NOOP": SmtpServer._noop,
    "HELP": SmtpServer._help,
    "VRFY": SmtpServer._verify,
    "EXPN": SmtpServer._verify,
    "ETRN": SmtpServer._etrn,
    "QUIT": SmtpServer._quit,
}
_READERS: dict[str, dict[bytes, tuple[Command, _Reader]]] = {
    role: {verb: (row, _READER_OF.get(row.verb, SmtpServer._absent)) for verb, row in rows.items()}
    for role, rows in COMMANDS.items()
}

_FOLLOW: dict[type, Callable[[SmtpServer, Reply, Any], None]] = {
    MailFrom: SmtpServer._after_mail,
    RcptTo: SmtpServer._after_rcpt,
    DataBegin: SmtpServer._after_data,
    ContentEnd: SmtpServer._after_content,
    StartTLS: SmtpServer._after_starttls,
    AuthBegin: SmtpServer._after_auth,
    AuthResponse: SmtpServer._after_auth,
    Quit: SmtpServer._after_quit,
}
