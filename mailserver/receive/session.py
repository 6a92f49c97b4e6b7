"""What an SMTP client's words mean: each event of the machine gets its answer here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IOpenSSLContextFactory, IReactorTime

from mailserver import maillog
from mailserver.connections import PRESSED_TIMES, Connections, Times
from mailserver.interfaces import IAuthenticator
from mailserver.receive.address_book import CANNOT_VERIFY, AddressBook
from mailserver.receive.authentication import CANCELLED, Exchange
from mailserver.receive.requests import MOST_URGENT, requests_of
from mailserver.receive.terminal_mail import TerminalTransaction
from mailserver.receive.transaction import TRY_LATER, Intake, Transaction
from mailserver.values.account import Account
from mailserver.values.address import NULL_SENDER, domain_key
from mailserver.values.reply import Reply, reply
from mailserver.values.session import SessionFacts, TLSFacts
from mailserver.values.text import printable
from mailserver.wire.sasl import Challenge
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

_BYE = reply(221, "2.0.0", "Bye", hang_up=True)
_RESET = reply(250, "2.0.0", "Ok")
_NO_TLS = reply(454, "4.7.0", "TLS is not available now")
_NO_AUTH = reply(502, "5.5.1", "AUTH is not offered here")
_NO_QUEUE = reply(459, "4.7.1", "The queue is not started from outside")
_SHOWN_AT_ONCE = reply(501, "5.5.4", "SEND shows a message at once; HOLDFOR and HOLDUNTIL need MAIL")
_TOO_MANY_MESSAGES = reply(
    421, "4.7.0", "Too many messages in one session; please begin another", hang_up=True
)
_TOO_MANY_DOMAINS = reply(
    452, "4.5.3", "Recipients in too many domains; send the message again to the others"
)
_NO_EXPANSION = reply(550, "5.7.1", "Lists are not expanded here")


@dataclass(frozen=True, slots=True)
class BeginTLS:
    """An answer: 220, then the handshake."""

    context: IOpenSSLContextFactory


def _start_tls(transport: Any, context: IOpenSSLContextFactory) -> Callable[[bytes], object]:
    transport.startTLS(context)
    write: Callable[[bytes], object] = transport.write
    return write


Answer = Reply | Challenge | BeginTLS | Future[None] | Deferred[Any] | None
"""What the receiver does next: send a reply or a challenge, begin TLS, wait for the disk (a
future), wait for an answer (a Deferred of one of these), or go on to the next event."""


@dataclass(frozen=True, slots=True)
class ReceiverSettings:
    """What the sessions of one listener share.

    ``tls`` makes the contexts for STARTTLS; ``implicit_tls`` says that the transport begins with a
    handshake; ``trusted_networks`` may relay without AUTH; of those in ``normalize`` bare line
    ends are mended and not refused.  ``closed``: nobody is served, and told so (RFC 7504).
    ``connections`` counts those of all listeners.  ``rates`` limits what strangers send, ``lookups``
    asks DNS about them; ``start_queue`` answers ETRN, ``address_book`` VRFY and EXPN.
    ``start_tls`` begins TLS on a transport and gives what writes to it from then on.
    """

    offer: Offer
    intake: Intake
    clock: IReactorTime
    tls: IOpenSSLContextFactory | None = None
    implicit_tls: bool = False
    authenticator: IAuthenticator | None = None
    trusted_networks: Sequence[IPv4Network | IPv6Network] = ()
    normalize: Sequence[IPv4Network | IPv6Network] = ()
    closed: bool = False
    connections: Connections | None = None
    times: Times = Times()  # noqa: RUF009 frozen
    pressed_times: Times = PRESSED_TIMES
    rates: Rates | None = None
    lookups: Lookups | None = None
    start_queue: Callable[[SessionFacts, str], Reply | Deferred[Reply]] | None = None
    address_book: AddressBook | None = None
    start_tls: Callable[[Any, IOpenSSLContextFactory], Callable[[bytes], object]] = _start_tls


class Rates(Protocol):
    """``policy.rates.ClientRates``: the refusal, when the client has sent too much."""

    def message(self, host: str, /) -> Reply | None: ...

    def recipient(self, host: str, /) -> Reply | None: ...


class Lookups(Protocol):
    """``receive.lookups.ClientLookups``."""

    def begin(self, facts: SessionFacts, /) -> None: ...

    def name_of(self, facts: SessionFacts, /) -> str: ...


class Session:
    """One client, from its greeting on: the facts about it, and the transaction it is in."""

    def __init__(self, settings: ReceiverSettings, facts: SessionFacts) -> None:
        self.facts = facts
        self._settings = settings
        self._transaction: Transaction | None = None
        self._exchange: Exchange | None = None
        self._messages = 0

    def answer(self, event: Event) -> Answer:
        """What is said to ``event``."""
        return _ANSWERS[type(event)](self, event)

    def tls_started(self, tls: TLSFacts) -> None:
        """Everything said before the handshake is forgotten (RFC 3207 §4.2)."""
        self.drop_transaction()
        facts = self.facts
        facts.tls, facts.hello, facts.extended, facts.account = tls, "", False, None

    def drop_transaction(self) -> None:
        """Nothing of an open transaction is kept. Harmless at any time."""
        if self._transaction is not None:
            self._transaction.abort()
            self._transaction = None

    # -- an answer to each event -----------------------------------------------------------

    def _hello(self, event: Hello) -> Answer:
        self.drop_transaction()
        self.facts.hello, self.facts.extended = event.name, event.extended
        if self._settings.lookups is not None:
            self._settings.lookups.begin(self.facts)
        return reply(250, "", f"{self._settings.intake.hostname} at your service")

    def _mail(self, event: MailFrom) -> Answer:
        self.drop_transaction()
        if (most := self._settings.offer.messages) and self._messages >= most:
            return _TOO_MANY_MESSAGES
        if (rates := self._rates()) and (refusal := rates.message(self.facts.client_host)):
            return refusal
        if self.facts.account is not None and (refusal := self._not_theirs(event, self.facts.account)):
            return refusal
        intake, longest_hold = self._settings.intake, self._settings.offer.future_release
        requests = requests_of(event, self.facts, longest_hold, intake.now(), self._highest_priority())
        if isinstance(requests, Reply):
            return requests
        self._messages += 1
        if event.verb != "MAIL":
            return self._mail_to_terminals(event, requests)
        self._transaction = Transaction(intake, self.facts, event, requests)
        return reply(250, "2.1.0", f"Sender <{printable(str(event.path))}> ok")

    def _mail_to_terminals(self, event: MailFrom, requests: dict[str, Any]) -> Answer:
        """SEND is shown and kept nowhere; SOML and SAML are spooled and say in the envelope what they are."""
        if event.verb == "SEND":
            if event.hold_for or event.hold_until:
                return _SHOWN_AT_ONCE
            self._transaction = TerminalTransaction(self._settings.intake, self.facts, event, requests)
        else:
            asked = {**requests, "terminal": event.verb}
            self._transaction = Transaction(self._settings.intake, self.facts, event, asked)
        return reply(250, "2.1.0", f"Sender <{printable(str(event.path))}> ok")

    def _not_theirs(self, event: MailFrom, account: Account) -> Reply | None:
        """Why somebody who has logged in may not send from this address (RFC 6409 §6.1)."""
        submission = self._settings.intake.submission
        try:
            refusal = submission.objection(account, event.path) if submission else None
        except Exception as error:
            maillog.fault(f"deciding on MAIL FROM:<{event.path}>", error)
            return TRY_LATER
        if refusal is not None:
            return maillog.refused(refusal, "MAIL", self.facts, event.path, NULL_SENDER)
        return None

    def _rcpt(self, event: RcptTo) -> Answer:
        assert self._transaction is not None
        if (rates := self._rates()) and (refusal := rates.recipient(self.facts.client_host)):
            return refusal
        if self._settings.lookups is not None:
            self.facts.client_name = self._settings.lookups.name_of(self.facts)
        if (most := self._settings.offer.domains) and self._is_one_domain_more(event, most):
            return _TOO_MANY_DOMAINS
        return self._transaction.recipient(event)

    def _is_one_domain_more(self, event: RcptTo, most: int) -> bool:
        assert self._transaction is not None
        domains = {domain_key(path.domain) for path in self._transaction.facts.recipients}
        return len(domains) >= most and domain_key(event.path.domain) not in domains

    def _highest_priority(self) -> int:
        submission, account = self._settings.intake.submission, self.facts.account
        return MOST_URGENT if submission is None or account is None else submission.highest_priority(account)

    def _rates(self) -> Rates | None:
        """The rates that hold for strangers; a user's own limits are another matter."""
        facts = self.facts
        known = facts.exempt or facts.trusted or facts.account is not None
        return None if known else self._settings.rates

    def _data(self, event: DataBegin) -> Answer:
        assert self._transaction is not None
        return self._transaction.begin_content()

    def _chunk(self, event: ContentChunk) -> Answer:
        assert self._transaction is not None
        return self._transaction.write(event.octets)

    def _content_end(self, event: ContentEnd) -> Answer:
        assert self._transaction is not None
        transaction, self._transaction = self._transaction, None
        return transaction.finish(event.fault)

    def _start_tls(self, event: StartTLS) -> Answer:
        self.drop_transaction()
        return _NO_TLS if self._settings.tls is None else BeginTLS(self._settings.tls)

    def _auth_begin(self, event: AuthBegin) -> Answer:
        if self._settings.authenticator is None:
            return _NO_AUTH
        self._exchange = Exchange(self._settings.authenticator, self.facts, event.mechanism)
        answer: Answer = self._exchange.step(event.initial)
        return answer

    def _auth_response(self, event: AuthResponse) -> Answer:
        if event.octets is None or self._exchange is None:
            return CANCELLED
        answer: Answer = self._exchange.step(event.octets)
        return answer

    def _reset(self, event: Reset) -> Answer:
        self.drop_transaction()
        return _RESET

    def _quit(self, event: Quit) -> Answer:
        self.drop_transaction()
        return _BYE

    def _verify(self, event: Verify) -> Answer:
        book = self._settings.address_book
        return CANNOT_VERIFY if book is None else self._looked_up("VRFY", lambda: book.verify(event))

    def _expand(self, event: Expand) -> Answer:
        book = self._settings.address_book
        return _NO_EXPANSION if book is None else self._looked_up("EXPN", lambda: book.expand(event))

    def _looked_up(self, verb: str, look_up: Callable[[], Reply]) -> Reply:
        try:
            return look_up()
        except Exception as error:
            maillog.fault(f"answering {verb}", error)
            return TRY_LATER

    def _start_queue(self, event: StartQueue) -> Answer:
        start = self._settings.start_queue
        return _NO_QUEUE if start is None else start(self.facts, event.domain)

    def _refused(self, event: Refused) -> Answer:
        return None  # its reply is on its way


_ANSWERS: dict[type[Event], Callable[[Session, Any], Answer]] = {
    Hello: Session._hello,
    MailFrom: Session._mail,
    RcptTo: Session._rcpt,
    DataBegin: Session._data,
    ContentChunk: Session._chunk,
    ContentEnd: Session._content_end,
    StartTLS: Session._start_tls,
    AuthBegin: Session._auth_begin,
    AuthResponse: Session._auth_response,
    Reset: Session._reset,
    Quit: Session._quit,
    Verify: Session._verify,
    Expand: Session._expand,
    StartQueue: Session._start_queue,
    Refused: Session._refused,
}
