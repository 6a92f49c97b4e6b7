"""A session machine with somebody who answers it: what the tests of wire/smtp_server.py talk to."""

from __future__ import annotations

from mailserver.values.reply import Reply, reply
from mailserver.wire.smtp_events import (
    AuthBegin,
    AuthResponse,
    ContentChunk,
    ContentEnd,
    DataBegin,
    Event,
    Hello,
    Offer,
    Quit,
    Refused,
    StartTLS,
)
from mailserver.wire.smtp_server import SmtpServer

SMTP = Offer("mx.example.test", "smtp", message_size=10_000, recipients=3, starttls=True)
SUBMISSION = Offer("mx.example.test", "submission", 10_000, 3, True, ("PLAIN", "LOGIN"))

ANSWERS: dict[type, Reply] = {
    Hello: reply(250, "", "mx.example.test at your service"),
    DataBegin: reply(354, "", "Go on"),
    Quit: reply(221, "2.0.0", "Bye"),
    StartTLS: reply(220, "2.0.0", "Go on"),
    AuthBegin: reply(235, "2.7.0", "Welcome"),
    AuthResponse: reply(235, "2.7.0", "Welcome"),
}


class Peer:
    """Feeds octets, answers events and keeps them; chunks of content are joined to one.

    ``answers`` replaces the reply to a kind of event; ``bytes`` stand for a challenge.
    """

    def __init__(self, offer: Offer = SMTP, answers: dict[type, Reply | bytes] | None = None) -> None:
        self.machine = SmtpServer(offer)
        self.answers: dict[type, Reply | bytes] = {**ANSWERS, **(answers or {})}
        self.events: list[Event] = []
        self.output = b""

    def say(self, octets: bytes | str) -> bytes:
        """Feed and answer; what the server said to this."""
        self.machine.feed(octets if isinstance(octets, bytes) else octets.encode())
        while (event := self.machine.next_event()) is not None:
            self._keep(event)
            self._answer(event)
        said = self.machine.take_output()
        self.output += said
        return said

    def _keep(self, event: Event) -> None:
        before = self.events[-1] if self.events else None
        if isinstance(event, ContentChunk) and isinstance(before, ContentChunk):
            self.events[-1] = ContentChunk(before.octets + event.octets)
        else:
            self.events.append(event)

    def _answer(self, event: Event) -> None:
        if isinstance(event, ContentChunk | Refused):
            return
        answer = self.answers.get(type(event), reply(250, "2.0.0", "OK"))
        if isinstance(event, ContentEnd) and event.fault:
            answer = event.fault
        if isinstance(answer, bytes):
            self.machine.challenge(answer)
        else:
            self.machine.answer(answer)

    def code(self, line: str | bytes) -> str:
        """Say one line; the code and enhanced status of the reply's last line."""
        octets = line if isinstance(line, bytes) else line.encode()
        return " ".join(self.say(octets + b"\r\n").decode().splitlines()[-1].split()[:2])

    def lines(self, line: str) -> list[str]:
        """Say one line; the lines of the reply."""
        return self.say(line + "\r\n").decode().splitlines()


def codes(said: bytes) -> list[str]:
    """The code of each reply in ``said``."""
    return [line[:3].decode() for line in said.split(b"\r\n") if line[3:4] == b" "]
