"""The server's side of one SMTP session without a socket: octets in, events out, answers back."""

from __future__ import annotations

import time
from collections.abc import Callable

from mailserver.values.reply import Reply, reply
from mailserver.wire import smtp_help
from mailserver.wire.smtp_chunks import BinaryScanner, ChunkReader, TextScanner, chunk_from
from mailserver.wire.smtp_events import ContentChunk, ContentEnd, DataBegin, Event, Offer, Refused
from mailserver.wire.smtp_readers import READERS, auth_response, shown
from mailserver.wire.smtp_state import CHUNK, CLOSED, COMMAND_LINES, CONTENT, EXCHANGE, HANDSHAKE, SmtpState
from mailserver.wire.smtp_table import (
    ATTEMPTED,
    AUTH_LINE_OCTETS,
    BINARY,
    CHUNKED,
    COMMANDS,
    LINE_OCTETS,
    Command,
    facts_at_start,
)

IDLE_COMMANDS = 100
"""NOOP and HELP answered between two messages; those after them count as errors."""

_CONTROLS = bytes([*range(0x20), 0x7F])

_DONE = b"250 2.0.0 OK\r\n"
_CHUNK_DONE = b"250 2.0.0 Chunk received\r\n"
# What follows the line cannot be told from commands any more, so nothing of it is read.
_BAD_CHUNK = reply(501, "5.5.4", "Syntax: BDAT octets [LAST]; closing the connection", hang_up=True)
_LINE_TOO_LONG = reply(500, "5.5.2", "Command line too long")
_EXCHANGE_TOO_LONG = reply(500, "5.5.6", "Authentication exchange line too long")
_EMPTY = reply(500, "5.5.2", "Empty command; HELP lists the commands")
_CONTROL_OCTETS = reply(500, "5.5.2", "Control characters are not allowed in a command")
_UNKNOWN = reply(500, "5.5.1", "Unknown command; HELP lists the commands")
_TOO_IDLE = reply(450, "4.7.0", "Too many commands without a message")


class SmtpServer(SmtpState):
    """One session. ``feed`` octets, take events one at a time, ``answer`` each, send the output.

    One command is in work at a time: while an event waits for its answer ``next_event`` gives
    ``None`` and what is fed is kept, so the caller should stop reading.  Whatever the octets are,
    they become events and replies; no method raises for them.

    A command line may end in a bare LF, for people with netcat; content may not (see
    ``ContentScanner``).  Addresses are parsed as ``grammar.path`` says.

    BDAT's octets are counted, not searched; those of a refused one are read and dropped before the
    refusal is said (RFC 3030 §2).  A BDAT that cannot be read ends the session: nobody could tell
    what follows it from commands.

    ``now`` gives seconds since the epoch, for FUTURERELEASE in the EHLO reply.  ``mark`` may be set to what
    puts a short id into refusals that have none: it takes the reply and the command.

    ``plaintext_pending`` is true when octets came behind STARTTLS before TLS had begun: an
    injection, or a client that does not follow RFC 3207 §4; they are dropped, and the connection
    should be.
    """

    __slots__ = ("_commands", "_swallowing")

    def __init__(self, offer: Offer, now: Callable[[], float] = time.time) -> None:
        super().__init__(offer, now)
        self._commands = _READERS[offer.role]
        self._swallowing = False

    # -- octets --------------------------------------------------------------------------------

    def feed(self, octets: bytes) -> None:
        """Take octets from the client."""
        if self._mode == HANDSHAKE:
            self.plaintext_pending = self.plaintext_pending or bool(octets)
        elif self._mode != CLOSED:
            if self._position == len(self._buffer):
                self._buffer = octets
            else:
                self._buffer = self._buffer[self._position :] + octets
            self._position = 0

    def tls_started(self) -> None:
        """TLS is active: nothing said before it counts any more (RFC 3207 §4.2).

        Call it also before the greeting where TLS begins with the first octet (RFC 8314 §3.3).
        """
        self._end_transaction()
        self._facts = facts_at_start(self._offer, tls=True)
        self._mode = COMMAND_LINES
        self._drop_buffer()
        self._swallowing = False
        self._at_hand = None
        self._idle = 0

    # -- events --------------------------------------------------------------------------------

    def next_event(self) -> Event | None:
        """What the client said next; ``None``: feed more, or answer what is at hand."""
        if self._at_hand is not None:
            return None
        if self._mode == CONTENT:
            return self._next_content()
        while self._mode <= CHUNK:
            if self._mode == CHUNK:
                event = self._next_chunk()
                if event is not None or self._mode == CHUNK:
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
            event = self._exchange(line) if self._mode == EXCHANGE else self._command(line)
            if event is not None:
                return event
        return None

    def _longest_line(self) -> int:
        if self._mode == EXCHANGE:
            return AUTH_LINE_OCTETS
        row = COMMANDS[self._offer.role].get(self._first_word())
        return row.longest if row else LINE_OCTETS

    def _first_word(self) -> bytes:
        return self._buffer[self._position : self._position + 16].lstrip(b" ").partition(b" ")[0].upper()

    def _refuse_overlong(self) -> Event:
        """Refuse at once, then swallow the line to its end in bounded memory."""
        self._swallowing = True
        if self._mode == EXCHANGE:
            self._mode = COMMAND_LINES
            return self._refuse(_EXCHANGE_TOO_LONG, "AUTH")
        verb = self._first_word()
        return self._refuse(_BAD_CHUNK if verb == b"BDAT" else _LINE_TOO_LONG, shown(verb))

    def _swallow(self) -> bool:
        """Drop octets up to the next line feed; whether it was there."""
        end = self._buffer.find(b"\n", self._position)
        if end < 0:
            self._drop_buffer()
            return False
        self._position = end + 1
        self._swallowing = False
        return True

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
        self._mode = COMMAND_LINES
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
        self._mode = COMMAND_LINES
        return self._refuse(refusal, "BDAT")

    def _command(self, line: bytes) -> Event | None:
        if len(line.translate(None, _CONTROLS)) != len(line):
            verb = line.lstrip(b" ").partition(b" ")[0]
            return self._refuse(_BAD_CHUNK if verb.upper() == b"BDAT" else _CONTROL_OCTETS, shown(verb))
        verb, _, argument = line.strip(b" ").partition(b" ")
        row = self._commands.get(verb) or self._commands.get(verb.upper())
        if row is None:
            return self._refuse(_UNKNOWN if verb else _EMPTY, shown(verb))
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
        self._output.append(self._said(answer, command))
        if answer.hang_up:
            self._close()
        return Refused(answer, command)

    # -- one command each ----------------------------------------------------------------------

    def _read(self, argument: bytes, command: Command) -> Event:
        found = READERS[command.verb](argument, command, self._offer, self._facts)
        return self._refuse(found, command.verb) if isinstance(found, Reply) else self._ask(found)

    def _read_afresh(self, argument: bytes, command: Command) -> Event:
        """EHLO, RSET and QUIT end a transaction at once, whatever they are answered (RFC 5321 §4.1.4)."""
        event = self._read(argument, command)
        if self._at_hand is not None:
            self._end_transaction()
        return event

    def _rcpt(self, argument: bytes, command: Command) -> Event:
        self._facts |= ATTEMPTED
        return self._read(argument, command)

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
        self._mode = CHUNK
        return None

    def _refuse_chunk(self, argument: bytes, refusal: Reply) -> Event | None:
        found = chunk_from(argument)
        if found is None:
            return self._refuse(_BAD_CHUNK, "BDAT")
        self._mode = CHUNK
        return self._drop_octets(refusal, found[0])

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

    def _exchange(self, line: bytes) -> Event:
        self._mode = COMMAND_LINES
        found = auth_response(line)
        return self._refuse(found, "AUTH") if isinstance(found, Reply) else self._ask(found)


_Reader = Callable[[SmtpServer, bytes, Command], Event | None]

_READER_OF: dict[str, _Reader] = {
    "EHLO": SmtpServer._read_afresh,
    "LHLO": SmtpServer._read_afresh,
    "HELO": SmtpServer._read_afresh,
    "RSET": SmtpServer._read_afresh,
    "QUIT": SmtpServer._read_afresh,
    "RCPT": SmtpServer._rcpt,
    "BDAT": SmtpServer._bdat,
    "NOOP": SmtpServer._noop,
    "HELP": SmtpServer._help,
}
_READERS: dict[str, dict[bytes, tuple[Command, _Reader]]] = {
    role: {verb: (row, _READER_OF.get(row.verb, SmtpServer._read)) for verb, row in rows.items()}
    for role, rows in COMMANDS.items()
}
