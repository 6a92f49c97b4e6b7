"""A transaction played through the real receiver and the whole policy, whose message goes nowhere."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.testing import StringTransport
from zope.interface import implementer

from mailserver.interfaces import ISpoolWriter
from mailserver.policy.chains import decide, rule_name
from mailserver.receive.smtp import SMTPReceiverFactory
from mailserver.values.account import Account
from mailserver.values.envelope import Entry, Envelope
from mailserver.values.reply import Reply
from mailserver.values.session import RecipientFacts
from mailserver.wire.smtp_table import AUTHENTICATED, ENTITLED, TLS, TLS_FIRST

PATIENCE = 120.0
"""Seconds that one command may take: rules may ask DNS."""

CHUNK = 64 * 1024


@dataclass(slots=True)
class Said:
    """One command and its reply; ``verdicts`` are the rules that were asked, each with its opinion."""

    command: str
    reply: str
    verdicts: list[tuple[str, str]] = field(default_factory=list)

    @property
    def is_refusal(self) -> bool:
        """Whether the reply is a 4xx or 5xx."""
        return self.reply[:1] in ("4", "5")


@implementer(ISpoolWriter)
class _Nowhere:
    """A message that is never kept, and so never answered with 250."""

    id = 1 << 60

    def __init__(self) -> None:
        self.envelope: Envelope | None = None

    def write(self, chunk: bytes) -> Future[None] | None:
        return None

    def commit(self, envelope: Envelope) -> Future[Entry]:
        self.envelope = envelope
        return Future()

    def entry(self, envelope: Envelope) -> Entry | None:
        return None

    def abort(self) -> None:
        pass


class Nowhere:
    """In the place of the spool: ``writers`` are the messages that were begun."""

    def __init__(self) -> None:
        self.writers: list[_Nowhere] = []

    def begin(self) -> _Nowhere:
        """See ``ISpool``."""
        self.writers.append(_Nowhere())
        return self.writers[-1]


class Watched:
    """The chain of rules, that tells what each has said."""

    def __init__(self, rules: Sequence[Any]) -> None:
        self.verdicts: list[tuple[str, str]] = []
        self._rules = [self._watched(rule) for rule in rules]

    def __call__(self, facts: RecipientFacts) -> Reply | Awaitable[Reply | None] | None:
        return decide(self._rules, facts)

    def _watched(self, rule: Any) -> Any:
        def asked(facts: RecipientFacts) -> Any:
            opinion = rule(facts)
            if opinion is None or isinstance(opinion, Reply):
                return self._noted(rule, opinion)
            return self._later(rule, opinion)

        return asked

    async def _later(self, rule: Any, opinion: Awaitable[Reply | None]) -> Reply | None:
        return self._noted(rule, await opinion)

    def _noted(self, rule: Any, opinion: Reply | None) -> Reply | None:
        self.verdicts.append((rule_name(rule), "no objection" if opinion is None else opinion.text))
        return opinion


class Rehearsal:
    """One session of ``factory``, whose spool is ``nowhere``, with a client at ``host``."""

    def __init__(
        self,
        factory: SMTPReceiverFactory,
        nowhere: Nowhere,
        watched: Watched,
        clock: Any,
        host: str,
        account: Account | None = None,
    ) -> None:
        self._nowhere = nowhere
        self._watched = watched
        self._clock = clock
        self._account = account
        kind = IPv6Address if ":" in host else IPv4Address
        self._transport = StringTransport(peerAddress=kind("TCP", host, 4711))
        self._session: Any = factory.buildProtocol(self._transport.getPeer())
        self.said: list[Said] = []

    async def play(
        self, hello: str, sender: str, recipients: Sequence[str], content: bytes
    ) -> Envelope | None:
        """Say all of it; the envelope that would have been kept, or ``None`` when something was refused."""
        self._session.makeConnection(self._transport)
        if not await self._say("", "connection"):
            return None
        if not await self._say(f"EHLO {hello}\r\n"):
            return None
        if self._account is not None:
            self._session._session.facts.account = self._account
            machine = self._session._machine
            machine._facts = machine._facts & ~TLS_FIRST | TLS | AUTHENTICATED | ENTITLED
        declared = f" SIZE={len(content)}"
        utf8 = "" if (sender + "".join(recipients)).isascii() else " SMTPUTF8"
        if not await self._say(f"MAIL FROM:<{sender}>{declared}{utf8}\r\n"):
            return None
        taken = [await self._say(f"RCPT TO:<{recipient}>\r\n") for recipient in recipients]
        if not any(taken) or not await self._say("DATA\r\n"):
            return None
        return await self._content(content)

    async def _content(self, content: bytes) -> Envelope | None:
        lines = content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        stuffed = (b"\r\n" + lines).replace(b"\r\n.", b"\r\n..")[2:]
        end = b".\r\n" if stuffed.endswith(b"\r\n") else b"\r\n.\r\n"
        octets = stuffed + end
        for start in range(0, len(octets), CHUNK):
            self._session.dataReceived(octets[start : start + CHUNK])
        reply = await self._reply()
        envelope = self._nowhere.writers[-1].envelope
        self.said.append(Said("content", reply or "250 2.0.0 would be kept"))
        return None if reply else envelope

    async def _say(self, command: str, name: str = "") -> bool:
        self._watched.verdicts.clear()
        if command:
            self._session.dataReceived(command.encode())
        reply = await self._reply()
        said = Said(name or command.strip(), reply or "(no answer in time)", list(self._watched.verdicts))
        self.said.append(said)
        return bool(reply) and not said.is_refusal

    async def _reply(self) -> str:
        """The reply, on one line; ``""`` when the message was kept instead, or time is over."""
        waited = 0.0
        while not self._is_whole():
            if self._nowhere.writers and self._nowhere.writers[-1].envelope is not None:
                return ""
            if waited > PATIENCE or self._transport.disconnecting:
                break
            await self._pause()
            waited += 0.01
        octets = self._transport.value()
        self._transport.clear()
        lines = octets.decode(errors="replace").splitlines()
        return (
            " ".join([lines[0][:4].replace("-", " ") + lines[0][4:], *(one[4:] for one in lines[1:])])
            if lines
            else ""
        )

    def _is_whole(self) -> bool:
        lines = self._transport.value().split(b"\r\n")
        return len(lines) > 1 and lines[-2][3:4] == b" "

    def _pause(self) -> Deferred[None]:
        return deferLater(self._clock, 0.01)
