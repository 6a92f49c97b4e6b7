"""The MDA's way into another store: LMTP (RFC 2033), with one reply for each recipient."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import clientFromString
from twisted.internet.interfaces import IPullProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mailserver import maillog
from mailserver.deliver.turns import Turns
from mailserver.interfaces import IDeliveryAgent
from mailserver.values.content import Content
from mailserver.values.envelope import Entry, Recipient
from mailserver.values.outcome import Delayed, Delivered, Failed, Outcome
from mailserver.values.reply import Reply
from mailserver.values.text import printable
from mailserver.wire.client_commands import extensions_from, mail_command, rcpt_command
from mailserver.wire.dots import DotStuffer
from mailserver.wire.replies import MalformedReply, ReplyReader

RELAY = "lmtp"
CONNECT_SECONDS = 10.0
REPLY_SECONDS = 60.0
"""How long the store may take over one reply; it is on this machine or beside it."""
END_SECONDS = 300.0
"""The same after the message, when it writes to its disk."""

_NO_REPLY = Reply(451, "4.4.2", ("the store ended the connection",))


class StoreFailed(Exception):
    """The store cannot be spoken with now; the text says why, for report and log."""


@implementer(IDeliveryAgent)
class LmtpAgent:
    """Hands messages to the store at ``endpoint``, a Twisted client description (``unix:/path``)."""

    def __init__(self, reactor: Any, endpoint: str, hostname: str, turns: Turns) -> None:
        self._reactor = reactor
        self._endpoint = endpoint
        self._hostname = hostname
        self._turns = turns

    def attempt(self, entry: Entry, recipients: Sequence[Recipient]) -> Deferred[Sequence[Outcome]]:
        """See ``IDeliveryAgent``."""
        begun = self._turns.run(lambda: Deferred.fromCoroutine(self._deliver(entry, recipients)))
        if begun is None:
            return succeed(
                [_later(r, "too many messages wait for the store already", "4.3.2") for r in recipients]
            )
        return begun.addErrback(partial(_failed, entry, recipients))

    async def _deliver(self, entry: Entry, recipients: Sequence[Recipient]) -> Sequence[Outcome]:
        session = LmtpSession(self._reactor)
        endpoint = clientFromString(self._reactor, self._endpoint)
        try:
            await endpoint.connect(Factory.forProtocol(lambda: session)).addTimeout(
                CONNECT_SECONDS, self._reactor
            )
        except Exception as error:
            raise StoreFailed(f"no connection to the store: {printable(str(error))}") from error
        try:
            replies = await self._transaction(session, entry, recipients)
        finally:
            session.close()
        return [_outcome(recipient, reply) for recipient, reply in zip(recipients, replies, strict=True)]

    async def _transaction(
        self, session: LmtpSession, entry: Entry, recipients: Sequence[Recipient]
    ) -> list[Reply]:
        """The last word on each recipient. Raises ``StoreFailed`` before anybody could have the message."""
        await session.expect(220)
        extensions = extensions_from((await session.ask(f"LHLO {self._hostname}", 250)).lines)
        smtputf8 = extensions.smtputf8 and entry.envelope.smtputf8
        mail = await session.ask(mail_command(entry.envelope, entry.content.size, extensions, smtputf8))
        if mail.code != 250:
            return [mail] * len(recipients)
        replies = [await session.ask(rcpt_command(one, extensions, smtputf8)) for one in recipients]
        accepted = [n for n, reply in enumerate(replies) if reply.is_positive]
        if not accepted:
            return replies
        go_on = await session.ask("DATA")
        if go_on.code != 354:
            return [go_on if reply.is_positive else reply for reply in replies]
        session.send_content(entry.content)
        for n in accepted:
            # Some may have it already: whoever gets no reply is tried again, at the worst twice.
            replies[n] = await session.reply(END_SECONDS) or _NO_REPLY
        session.say("QUIT")
        return replies


@implementer(IPullProducer)
class LmtpSession(Protocol):
    """A connection: commands out, replies in, in order."""

    transport: Any

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._reader = ReplyReader()
        self._replies: deque[Reply] = deque()
        self._waiting: Deferred[Reply | None] | None = None
        self._lost = False
        self._content: Iterator[bytes] = iter(())
        self._stuffer = DotStuffer()

    def say(self, command: str) -> None:
        self.transport.write(f"{command}\r\n".encode())

    async def reply(self, seconds: float = REPLY_SECONDS) -> Reply | None:
        """The next reply; ``None`` when none will come, or not in time."""
        if self._replies:
            return self._replies.popleft()
        if self._lost:
            return None
        waiting: Deferred[Reply | None] = Deferred()
        self._waiting = waiting
        timer = self._reactor.callLater(seconds, self._give_up)
        answer = await waiting
        if timer.active():
            timer.cancel()
        return answer

    async def ask(self, command: str, expected: int = 0) -> Reply:
        """The answer to a command. Raises ``StoreFailed`` where none comes, or not the expected one."""
        self.say(command)
        return await self.expect(expected)

    async def expect(self, code: int = 0) -> Reply:
        answer = await self.reply()
        if answer is None:
            raise StoreFailed("the store does not answer")
        if code and answer.code != code:
            raise StoreFailed(f"the store answered: {printable(answer.text)}")
        return answer

    def send_content(self, content: Content) -> None:
        """The message and the end of data, as fast as the store reads."""
        self._content = content.chunks()
        self.transport.registerProducer(self, False)

    def close(self) -> None:
        self.transport.loseConnection()

    # -- what Twisted calls ------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        try:
            self._reader.add(data)
            while reply := self._reader.next():
                self._replies.append(reply)
        except MalformedReply:
            self._give_up()
            return
        if self._replies and self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.callback(self._replies.popleft())

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._lost = True
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.callback(None)

    def resumeProducing(self) -> None:
        try:
            piece = next(self._content, None)
        except OSError:
            self._give_up()  # without an end of data nobody has it
            return
        if piece is not None:
            self.transport.write(self._stuffer.feed(piece))
            return
        self.transport.unregisterProducer()
        self.transport.write(self._stuffer.finish())

    def stopProducing(self) -> None:
        """The connection is lost; ``connectionLost`` says so too."""

    def _give_up(self) -> None:
        self.transport.abortConnection()
        self.connectionLost()


def _outcome(recipient: Recipient, reply: Reply) -> Outcome:
    kind = reply.code // 100
    text = printable(reply.text)
    if kind == 2:
        return Delivered(recipient=recipient, status=reply.enhanced or "2.0.0", diagnostic=text, relay=RELAY)
    status = reply.enhanced or f"{kind}.0.0"
    if kind == 5:
        return Failed(recipient=recipient, status=status, diagnostic=text, relay=RELAY)
    return _later(recipient, text, status if status.startswith("4") else "4.0.0")


def _failed(entry: Entry, recipients: Sequence[Recipient], failure: Failure) -> Sequence[Outcome]:
    if failure.check(StoreFailed):
        return [_later(one, failure.getErrorMessage(), "4.4.1") for one in recipients]
    maillog.fault("delivering over LMTP", failure.value, entry.queue_id)
    return [_later(one, "an internal fault; the server's log has the details") for one in recipients]


def _later(recipient: Recipient, why: str, status: str = "4.3.0") -> Outcome:
    return Delayed(recipient=recipient, status=status, diagnostic=why, relay=RELAY)
