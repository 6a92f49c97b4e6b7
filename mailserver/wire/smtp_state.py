"""What an SMTP session has come to: the facts, what is at hand, and what an answer makes of them."""

from __future__ import annotations

import binascii
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from mailserver.values.reply import Reply
from mailserver.wire import smtp_help
from mailserver.wire.smtp_chunks import ChunkReader
from mailserver.wire.smtp_data import ContentScanner
from mailserver.wire.smtp_events import (
    AuthBegin,
    AuthResponse,
    ContentEnd,
    DataBegin,
    Event,
    Hello,
    MailFrom,
    Offer,
    Quit,
    RcptTo,
    StartTLS,
)
from mailserver.wire.smtp_table import (
    AUTHENTICATED,
    BINARY,
    CHUNKED,
    FULL,
    FUTURE_RELEASE,
    HELLO,
    IN_TRANSACTION,
    LMTP,
    RECIPIENT,
    TRANSACTION,
    UTF8,
    facts_at_start,
    facts_by_login,
)

# What the next octets are; the first two come in lines, and lines may follow the third in one piece.
COMMAND_LINES, EXCHANGE, CHUNK, CONTENT, HANDSHAKE, CLOSED = range(6)


def _unmarked(answer: Reply, command: str) -> Reply:
    return answer


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


class SmtpState:
    """The half of ``SmtpServer`` that answers change; the other half reads octets.

    ``plaintext_pending`` and ``mark`` are explained there.
    """

    __slots__ = (
        "_at_hand",
        "_buffer",
        "_chunk_refusal",
        "_chunks",
        "_facts",
        "_idle",
        "_mode",
        "_now",
        "_offer",
        "_output",
        "_position",
        "_recipients",
        "_scanner",
        "mark",
        "plaintext_pending",
    )

    def __init__(self, offer: Offer, now: Callable[[], float]) -> None:
        self.plaintext_pending = False
        self.mark: Callable[[Reply, str], Reply] = _unmarked
        self._offer = offer
        self._now = now
        self._facts = facts_at_start(offer, tls=False)
        self._mode = COMMAND_LINES
        self._buffer = b""
        self._position = 0
        self._output: list[bytes] = []
        self._at_hand: Event | None = None
        self._scanner: ContentScanner | None = None
        self._chunks: ChunkReader | None = None
        self._chunk_refusal: tuple[Reply, int] | None = None
        self._recipients = 0
        self._idle = 0

    @property
    def is_reading_content(self) -> bool:
        """Whether content is on its way: between 354 and the end of data, or between first and last BDAT."""
        return self._at_hand is None and (self._mode == CONTENT or self._facts & CHUNKED != 0)

    @property
    def is_handshaking(self) -> bool:
        """Whether STARTTLS was answered with 220 and TLS is not active yet."""
        return self._mode == HANDSHAKE

    @property
    def authenticated(self) -> bool:
        """Whether AUTH was answered with 235."""
        return self._facts & AUTHENTICATED != 0

    @property
    def in_transaction(self) -> bool:
        """Whether MAIL was accepted and the transaction has not ended."""
        return self._facts & TRANSACTION != 0

    def greet(self) -> None:
        """Queue the greeting (RFC 5321 §3.1)."""
        protocol = "LMTP" if self._offer.role == LMTP else "ESMTP"
        self._output.append(
            f"220 {self._offer.hostname} {protocol} ready; HELP lists the commands\r\n".encode()
        )

    def take_output(self) -> bytes:
        """Everything queued since the last call, for one write."""
        output = b"".join(self._output)
        self._output.clear()
        return output

    def _drop_buffer(self) -> None:
        self._buffer = b""
        self._position = 0

    def _said(self, answer: Reply, command: str) -> bytes:
        if answer.code < 400:
            return _octets(answer)
        return (answer if answer.mark else self.mark(answer, command)).encode()

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
            octets = (
                self._last_words(reply)
                if kind is ContentEnd
                else self._said(reply, kind.__name__ if event else "")
            )
            self._output.append(octets)
            follow = _FOLLOW.get(kind)
            if follow is not None:
                follow(self, reply, event)
        if reply.hang_up:
            self._close()

    def _close(self) -> None:
        """Nothing more is read."""
        self._mode = CLOSED
        self._drop_buffer()

    def _last_words(self, reply: Reply) -> bytes:
        """The reply to the end of data; over LMTP once for each recipient, but for a piece that was
        not the last (RFC 2033 §4.2, §4.3)."""
        octets = self._said(reply, "DATA") if reply.code >= 400 else reply.encode()
        if self._offer.role == LMTP and not reply.hang_up and (self._chunks is None or self._chunks.is_last):
            return octets * self._recipients
        return octets

    def _begin_chunks(self, answer: Reply) -> None:
        """BDAT is answered after its octets: go on to them, or drop them."""
        chunks = self._chunks
        assert chunks is not None
        if answer.hang_up:
            self._output.append(self._said(answer, "BDAT"))
            return
        self._mode = CHUNK
        if answer.code == 354:
            self._facts |= CHUNKED
            return
        octets = chunks.left
        self._end_transaction()
        self._chunk_refusal = answer, octets

    def challenge(self, octets: bytes) -> None:
        """Answer ``AuthBegin`` or ``AuthResponse`` with 334 and a challenge, which may be empty."""
        self._at_hand = None
        self._mode = EXCHANGE
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
            if event.smtputf8:
                self._facts |= UTF8

    def _after_rcpt(self, answer: Reply, event: Any) -> None:
        if answer.is_positive:
            self._facts |= RECIPIENT
            self._recipients += 1
            if self._recipients >= self._offer.recipients:
                self._facts |= FULL

    def _after_data(self, answer: Reply, event: Any) -> None:
        if answer.code == 354:
            self._mode = CONTENT
            self._scanner = ContentScanner(self._offer.message_size, normalize=self._offer.normalize)
        else:
            self._end_transaction()

    def _after_content(self, answer: Reply, event: Any) -> None:
        self._mode = COMMAND_LINES
        self._end_transaction()
        if answer.is_positive:
            self._idle = 0

    def _after_starttls(self, answer: Reply, event: Any) -> None:
        if answer.is_positive:
            self._mode = HANDSHAKE
            self.plaintext_pending = self._position < len(self._buffer)
            self._drop_buffer()

    def _after_auth(self, answer: Reply, event: Any) -> None:
        if answer.code == 334:
            self._mode = EXCHANGE
        elif answer.is_positive:
            self._facts |= facts_by_login(self._offer)

    def _after_quit(self, answer: Reply, event: Any) -> None:
        self._close()

    def _end_transaction(self) -> None:
        """The only place where a transaction ends; every way out of it leads here."""
        self._facts &= ~IN_TRANSACTION
        self._recipients = 0
        self._scanner = None
        self._chunks = None


_FOLLOW: dict[type, Callable[[SmtpState, Reply, Any], None]] = {
    MailFrom: SmtpState._after_mail,
    RcptTo: SmtpState._after_rcpt,
    DataBegin: SmtpState._after_data,
    ContentEnd: SmtpState._after_content,
    StartTLS: SmtpState._after_starttls,
    AuthBegin: SmtpState._after_auth,
    AuthResponse: SmtpState._after_auth,
    Quit: SmtpState._after_quit,
}
