"""The SMTP client's side of a session: octets in, events and octets out (RFC 5321, without sockets)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mailserver.values.envelope import Envelope, Recipient
from mailserver.values.reply import Reply
from mailserver.wire.client_commands import (
    Extensions,
    extensions_from,
    mail_command,
    needs_smtputf8,
    rcpt_command,
)
from mailserver.wire.client_events import (
    Event,
    Ready,
    SendContent,
    SessionEnded,
    Stage,
    StartTLS,
    TransactionDone,
)
from mailserver.wire.client_login import ClientLogin
from mailserver.wire.replies import MalformedReply, ReplyReader
from mailserver.wire.sasl import SaslError

_DIALOGUE = 220
"""Replies that ``dialogue`` holds at most: a transaction with a hundred recipients, and the opening."""


@dataclass(slots=True)
class _Transaction:
    """``replies`` has the last word on each recipient so far; ``accepted`` those still hoping."""

    commands: list[str]
    replies: list[Reply | None]
    size: int = 0
    only_asks: bool = False
    accepted: list[int] = field(default_factory=list)
    next_recipient: int = 0


class SMTPClientMachine:
    """One session. ``feed`` octets, ``take`` what is to be written after every call.

    Replies are matched to commands by order alone: ``_expected`` holds one stage for each command
    on the wire.  After ``SessionEnded`` everything is ignored.
    """

    def __init__(
        self,
        hostname: str,
        use_tls: bool,
        login: tuple[str, str] | None = None,
        require_tls: bool = False,
    ) -> None:
        """``hostname`` is what EHLO says; ``use_tls`` takes up STARTTLS wherever it is offered, and
        ``require_tls`` ends the session where it is not; ``login`` is a user and a password for AUTH."""
        self.extensions = Extensions()
        self.secured = False
        self.peer = ""
        """The name that the server gave itself in its greeting."""
        self.replies_read = 0
        """Grows with each whole reply: what a time limit may be extended for, unlike octets."""
        self._hostname = hostname
        self._use_tls = use_tls
        self._require_tls = require_tls
        self._login = login
        self._auth: ClientLogin | None = None
        self.dialogue: list[tuple[Stage, Reply]] = []
        """What was answered to what since ``begin``, or since the start; the driver may empty it."""
        self._reader = ReplyReader()
        self._out: list[str] = []
        self._expected: deque[Stage] = deque([Stage.GREETING])
        self._transaction: _Transaction | None = None
        self._behind: _Transaction | None = None
        """Its commands stand behind the content of the one before, which is not answered yet."""
        self._in_content = False
        self._reset_first = False
        self._events: list[Event] = []
        self._ended = False
        self._quitting = False

    # What the driver calls ---------------------------------------------------------------------

    @property
    def stage(self) -> Stage:
        """What we wait for now; it decides the time limit."""
        if self._in_content:
            return Stage.CONTENT
        return self._expected[0] if self._expected else Stage.IDLE

    @property
    def ended(self) -> bool:
        """Whether ``SessionEnded`` has been given."""
        return self._ended

    def feed(self, data: bytes) -> list[Event]:
        """What the server's octets mean, in order."""
        if not self._ended:
            self._reader.add(data)
            try:
                while not self._ended and (reply := self._reader.next()) is not None:
                    self._reply(reply)
            except MalformedReply as error:
                self._end(f"the server broke the protocol: {error}")
        return self._take_events()

    def take(self) -> bytes:
        """The commands to write now, in one piece; empty when there are none."""
        if not self._out:
            return b""
        octets = "".join(self._out).encode("utf-8")
        self._out.clear()
        return octets

    def tls_started(self) -> None:
        """The handshake is under way: everything known of the server is forgotten, EHLO goes
        again (RFC 3207 §4.2)."""
        self.secured = True
        self.extensions = Extensions()
        self._expected.clear()
        self._send(Stage.EHLO, f"EHLO {self._hostname}")

    def begin(
        self, envelope: Envelope, recipients: Sequence[Recipient], size: int | None, require_tls: bool = False
    ) -> None:
        """Start a transaction for ``recipients``; only when the session is idle. ``require_tls`` says
        REQUIRETLS to a server that offers it (RFC 8689). A ``size`` of ``None`` only asks: it ends after the
        replies to RCPT, without content.

        The caller has seen to it that addresses are ``speakable`` and that what they and the
        content need is offered.
        """
        assert self._transaction is None
        assert not self._expected
        transaction = self._transaction = self._new(envelope, recipients, size, require_tls)
        if self._reset_first:
            self._send(Stage.RSET, "RSET")
        if self.extensions.pipelining:
            self._send_group(transaction)
        elif not self._reset_first:
            self._send(Stage.MAIL, transaction.commands[0])
        self._reset_first = False

    @property
    def takes_another(self) -> bool:
        """Whether content has been sent, and the commands of another transaction may leave with it."""
        waits_for_end = len(self._expected) == 1 and self._expected[0] is Stage.END
        return waits_for_end and self.extensions.pipelining and not self._quitting

    def begin_behind(
        self, envelope: Envelope, recipients: Sequence[Recipient], size: int, require_tls: bool = False
    ) -> None:
        """Start a transaction as ``begin`` does, behind content whose end is not answered yet: content may be
        the first in a group of commands (RFC 2920 §3.1). When ``TransactionDone`` tells of the one before, it
        is the open one; if the session ends before that, nothing is told of it, for nothing of it came."""
        assert self.takes_another
        transaction = self._behind = self._new(envelope, recipients, size, require_tls)
        if self.extensions.chunking:
            # Should the BDAT before it fail, RSET leads out of an unknown state (RFC 3030 §2).
            self._send(Stage.RSET, "RSET")
        self._send_group(transaction)

    def _new(
        self, envelope: Envelope, recipients: Sequence[Recipient], size: int | None, require_tls: bool
    ) -> _Transaction:
        extensions = self.extensions
        smtputf8 = extensions.smtputf8 and (
            needs_smtputf8(envelope) or any(not r.address.local.isascii() for r in recipients)
        )
        known = self._login is not None
        commands = [mail_command(envelope, size or 0, extensions, smtputf8, require_tls, known)]
        commands += [rcpt_command(recipient, extensions, smtputf8) for recipient in recipients]
        return _Transaction(commands, [None] * len(recipients), size or 0, size is None)

    def reset_first(self) -> None:
        """Say RSET before the next MAIL."""
        self._reset_first = True

    def content_sent(self) -> None:
        """The content and its final dot are written; now the server has the word."""
        self._in_content = False
        if not self._ended:
            self._expected.append(Stage.END)

    def quit(self) -> None:
        """Say goodbye, when the session is idle or has been refused; the reply is not awaited."""
        if not self._quitting:
            self._quitting = True
            self._send(Stage.QUIT, "QUIT")

    def abandon(self, reason: str) -> list[Event]:
        """The connection is lost or its time is up: ``SessionEnded`` with what is known."""
        if not self._ended:
            self._end(reason)
        return self._take_events()

    # Out ---------------------------------------------------------------------------------------

    def _send(self, stage: Stage, command: str) -> None:
        self._out.append(command + "\r\n")
        self._expected.append(stage)

    def _send_group(self, transaction: _Transaction) -> None:
        """MAIL, every RCPT and DATA in one write (RFC 2920 §3.1). BDAT waits for the replies: the content
        goes with it, and a server that wants it for nobody need not read it."""
        commands = transaction.commands
        with_data = not (transaction.only_asks or self.extensions.chunking)
        self._out.append("\r\n".join(commands) + ("\r\nDATA\r\n" if with_data else "\r\n"))
        self._expected.append(Stage.MAIL)
        self._expected.extend([Stage.RCPT] * (len(commands) - 1))
        if with_data:
            self._expected.append(Stage.DATA)

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    # In ----------------------------------------------------------------------------------------

    def _reply(self, reply: Reply) -> None:
        self.replies_read += 1
        expected = self._expected
        # As ``stage``, which costs a call four times for each message.
        stage = Stage.CONTENT if self._in_content else expected[0] if expected else Stage.IDLE
        if len(self.dialogue) < _DIALOGUE:
            self.dialogue.append((stage, reply))
        code = reply.code
        if self._quitting:
            self._end("the session is over")
        elif stage is Stage.CONTENT:
            self._early(reply)
        elif stage is Stage.IDLE:
            self._end(f"the server spoke out of turn: {reply.text}", reply)
        elif code == 421:
            # "421 may be a reply to any command" (RFC 5321 §4.2.3): the server is about to close.
            self._end(f"the server closes the session: {reply.text}", reply)
        elif 300 <= code < 400 and stage is not Stage.DATA and stage is not Stage.AUTH:
            self._end(f"the server answered {stage.value} with {reply.text}", reply)
        else:
            expected.popleft()
            _ANSWERS[stage](self, reply)

    def _end(self, reason: str, reply: Reply | None = None, stage: Stage | None = None) -> None:
        transaction = self._transaction
        replies = tuple(transaction.replies) if transaction else ()
        self._events.append(SessionEnded(stage or self.stage, reason, reply, replies))
        self._ended = True
        self._transaction = self._behind = None
        self._in_content = False
        self._expected.clear()
        self._out.clear()
        self._reader.clear()

    def _refuse(self, stage: Stage, reply: Reply) -> None:
        self._end(f"{stage.value} was refused: {reply.text}", reply, stage)

    def _early(self, reply: Reply) -> None:
        """A reply before the final dot: a refusal counts for all, a yes is a lie (RFC 5321 §3.3)."""
        transaction = self._transaction
        if transaction and reply.code >= 400:
            for index in transaction.accepted:
                transaction.replies[index] = reply
        self._end(f"the server answered before the end of data: {reply.text}", reply)

    # The beginning ------------------------------------------------------------------------------

    def _greeted(self, reply: Reply) -> None:
        if reply.code != 220:
            self._refuse(Stage.GREETING, reply)
            return
        self.peer = reply.lines[0].partition(" ")[0]
        self._send(Stage.EHLO, f"EHLO {self._hostname}")

    def _ehlo_answered(self, reply: Reply) -> None:
        if reply.code == 250:
            self.extensions = extensions_from(reply.lines)
            if self._use_tls and not self.secured and "STARTTLS" in self.extensions.keywords:
                self._send(Stage.STARTTLS, "STARTTLS")
            elif self._require_tls and not self.secured:
                self._end("the server does not offer STARTTLS", stage=Stage.STARTTLS)
            else:
                self._log_in()
        elif reply.code >= 500 and self._require_tls:
            # Who is between us may say so too: no reason to return mail for good.
            self._end("the server does not know EHLO, and so no STARTTLS", stage=Stage.STARTTLS)
        elif reply.code >= 500 and not self._login:
            # RFC 5321 §3.2: a server that does not know EHLO may know HELO.
            self._send(Stage.HELO, f"HELO {self._hostname}")
        else:
            self._refuse(Stage.EHLO, reply)

    def _log_in(self) -> None:
        """AUTH, when we have something to say and the server wants to hear it."""
        mechanisms = self.extensions.keywords.get("AUTH", "")
        if self._login is None:
            self._events.append(Ready())
            return
        try:
            self._auth = ClientLogin(mechanisms, *self._login)
        except SaslError as error:
            self._end(str(error), stage=Stage.AUTH)
        else:
            self._send(Stage.AUTH, self._auth.first())

    def _auth_answered(self, reply: Reply) -> None:
        assert self._auth is not None
        try:
            if reply.code == 334:
                self._send(Stage.AUTH, self._auth.next(reply))
            elif reply.code == 235:
                self._auth.accepted(reply)
                self._events.append(Ready())
            else:
                self._refuse(Stage.AUTH, reply)
        except SaslError as error:
            self._end(str(error), stage=Stage.AUTH)

    def _helo_answered(self, reply: Reply) -> None:
        if reply.code == 250:
            self._events.append(Ready())
        else:
            self._refuse(Stage.HELO, reply)

    def _starttls_answered(self, reply: Reply) -> None:
        if reply.code != 220 and self._require_tls:
            self._refuse(Stage.STARTTLS, reply)
        elif reply.code != 220:
            # Opportunistic: a server that will not is used in clear, as if it had not offered.
            self._log_in()
        elif self._reader.has_rest:
            # Plain octets behind the 220 would be read as if TLS had protected them.
            self._end("the server sent more after its consent to STARTTLS", stage=Stage.STARTTLS)
        else:
            self._expected.append(Stage.HANDSHAKE)
            self._events.append(StartTLS())

    def _early_handshake(self, reply: Reply) -> None:
        self._end(f"the server answered before TLS had begun: {reply.text}", stage=Stage.STARTTLS)

    # The transaction ----------------------------------------------------------------------------

    def _reset_answered(self, reply: Reply) -> None:
        transaction = self._transaction
        if reply.code != 250:
            self._end(f"RSET was refused: {reply.text}", reply, Stage.RSET)
        elif transaction and not self.extensions.pipelining:
            self._send(Stage.MAIL, transaction.commands[0])

    def _mail_answered(self, reply: Reply) -> None:
        transaction = self._open()
        if reply.code < 300:
            if not self._expected:
                self._next_recipient(transaction)
            return
        transaction.replies = [reply] * len(transaction.replies)
        if not self._expected:
            self._finish(transaction)

    def _next_recipient(self, transaction: _Transaction) -> None:
        """One command at a time, for servers without PIPELINING."""
        asked = transaction.next_recipient
        if asked < len(transaction.replies):
            self._send(Stage.RCPT, transaction.commands[asked + 1])
        elif transaction.accepted and self.extensions.chunking:
            # The content stands behind the command, not behind a reply to it (RFC 3030 §2).
            self._out.append(f"BDAT {transaction.size} LAST\r\n")
            self._in_content = True
            self._events.append(SendContent(as_it_is=True))
        elif transaction.accepted:
            self._send(Stage.DATA, "DATA")
        else:
            self._reset_first = True
            self._finish(transaction)

    def _rcpt_answered(self, reply: Reply) -> None:
        transaction = self._open()
        index = transaction.next_recipient
        transaction.next_recipient += 1
        if transaction.replies[index] is None:
            if reply.code < 300 and not transaction.only_asks:
                transaction.accepted.append(index)
            else:
                transaction.replies[index] = _as_temporary(reply) if reply.code == 552 else reply
        if not self._expected:
            self._next_recipient(transaction)

    def _data_answered(self, reply: Reply) -> None:
        transaction = self._open()
        if reply.code == 354 and transaction.accepted:
            self._in_content = True
            self._events.append(SendContent())
        elif reply.code == 354:
            # 354 with nobody to deliver to: a lone dot ends it, whatever comes back (RFC 2920 §3.1).
            self._send(Stage.END, ".")
        elif reply.code < 400:
            self._end(f"the server answered DATA with {reply.text}", reply, Stage.DATA)
        else:
            # MAIL and RCPT may still stand at the server.
            self._reset_first = True
            self._conclude(transaction, reply)

    def _end_answered(self, reply: Reply) -> None:
        # After a BDAT that failed the server's state is not known (RFC 3030 §2).
        self._reset_first = reply.code >= 400 and self.extensions.chunking and self._behind is None
        self._conclude(self._open(), reply)

    def _conclude(self, transaction: _Transaction, reply: Reply) -> None:
        for index in transaction.accepted:
            transaction.replies[index] = reply
        self._finish(transaction)

    def _finish(self, transaction: _Transaction) -> None:
        replies = tuple([reply for reply in transaction.replies if reply is not None])
        assert len(replies) == len(transaction.replies)
        self._transaction, self._behind = self._behind, None
        self._events.append(TransactionDone(replies))

    def _open(self) -> _Transaction:
        assert self._transaction is not None
        return self._transaction

    def _quit_answered(self, reply: Reply) -> None:
        self._end(reply.text, reply, Stage.QUIT)


def _as_temporary(reply: Reply) -> Reply:
    """552 to RCPT means "too many recipients" at old servers (RFC 5321 §4.5.3.1.10)."""
    return Reply(452, "4.5.3", (reply.text,))


_ANSWERS: dict[Stage, Callable[[SMTPClientMachine, Reply], None]] = {
    Stage.GREETING: SMTPClientMachine._greeted,
    Stage.EHLO: SMTPClientMachine._ehlo_answered,
    Stage.HELO: SMTPClientMachine._helo_answered,
    Stage.STARTTLS: SMTPClientMachine._starttls_answered,
    Stage.HANDSHAKE: SMTPClientMachine._early_handshake,
    Stage.AUTH: SMTPClientMachine._auth_answered,
    Stage.RSET: SMTPClientMachine._reset_answered,
    Stage.MAIL: SMTPClientMachine._mail_answered,
    Stage.RCPT: SMTPClientMachine._rcpt_answered,
    Stage.DATA: SMTPClientMachine._data_answered,
    Stage.END: SMTPClientMachine._end_answered,
    Stage.QUIT: SMTPClientMachine._quit_answered,
}
"""One row for each kind of command: what its reply does."""
