"""``sendmail -bs``: SMTP on standard input and output, into the drop folder."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, BinaryIO

from mailserver.admin.local_mail import drop_into
from mailserver.admin.operator import Operator, Refusal
from mailserver.values.address import NULL_SENDER, Address, address_from

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_LINE = 64 * 1024


class Session:
    """One dialogue; whoever speaks it is a local program, so there are no limits beside the message's."""

    def __init__(self, operator: Operator, commands: BinaryIO, replies: BinaryIO) -> None:
        self._operator = operator
        self._commands = commands
        self._replies = replies
        self._sender: Address | None = None
        self._recipients: list[Address] = []

    def run(self) -> int:
        """Serve until QUIT or the end of input; the exit code."""
        self._say(f"220 {self._operator.settings.hostname} ESMTP ready")
        verbs: dict[str, Callable[[str], None]] = {
            "HELO": self._helo,
            "EHLO": self._helo,
            "MAIL": self._mail,
            "RCPT": self._rcpt,
            "DATA": self._data,
            "RSET": self._rset,
            "NOOP": lambda _: self._say("250 2.0.0 Ok"),
        }
        while line := self._commands.readline(MOST_LINE):
            verb, _, rest = line.decode("utf-8", "replace").strip().partition(" ")
            if verb.upper() == "QUIT":
                self._say("221 2.0.0 Bye")
                return os.EX_OK
            action = verbs.get(verb.upper())
            if action is None:
                self._say("500 5.5.2 Unknown command")
            else:
                action(rest)
        return os.EX_OK

    def _say(self, words: str) -> None:
        self._replies.write(words.encode() + b"\r\n")
        self._replies.flush()

    def _helo(self, rest: str) -> None:
        self._forget()
        self._say(f"250 {self._operator.settings.hostname} at your service")

    def _rset(self, rest: str) -> None:
        self._forget()
        self._say("250 2.0.0 Ok")

    def _forget(self) -> None:
        self._sender = None
        self._recipients = []

    def _mail(self, rest: str) -> None:
        path = _path(rest, "FROM:")
        if path is None:
            self._say("501 5.5.4 Syntax: MAIL FROM:<address>")
            return
        self._forget()
        try:
            self._sender = address_from(path) if path else NULL_SENDER
        except ValueError as error:
            self._say(f"553 5.1.7 {error}")
        else:
            self._say("250 2.1.0 Sender ok")

    def _rcpt(self, rest: str) -> None:
        path = _path(rest, "TO:")
        if self._sender is None:
            self._say("503 5.5.1 MAIL first")
        elif not path:
            self._say("501 5.5.4 Syntax: RCPT TO:<address>")
        else:
            try:
                self._recipients.append(address_from(path))
            except ValueError as error:
                self._say(f"553 5.1.3 {error}")
            else:
                self._say("250 2.1.5 Recipient ok")

    def _data(self, rest: str) -> None:
        if not self._recipients or self._sender is None:
            self._say("503 5.5.1 RCPT first")
            return
        self._say("354 End data with <CR><LF>.<CR><LF>")
        lines: list[bytes] = []
        while (line := self._commands.readline()) and line not in (b".\r\n", b".\n"):
            lines.append(line[1:] if line.startswith(b".") else line)
        if not line:
            return  # the program went away in the middle: nothing was sent
        try:
            drop_into(self._operator, self._sender, self._recipients, b"".join(lines))
        except Refusal as refusal:
            kept = 552 if refusal.exit_code == os.EX_DATAERR else 451
            self._say(f"{kept} {kept // 100}.3.0 {refusal}")
        else:
            self._say("250 2.0.0 Ok: the server takes it from here")
        self._forget()


def _path(rest: str, word: str) -> str | None:
    if not rest.upper().startswith(word):
        return None
    start, end = rest.find("<"), rest.find(">")
    return rest[start + 1 : end] if 0 <= start < end else None
