"""Every seam between two rooms, as zope.interface; ``tests/contracts/`` has one suite for each.

A method that may wait returns a ``concurrent.futures.Future`` on floor 3 (``spool/``, ``store/``)
and a ``Deferred`` on floor 4; ``threads.Bridge`` makes the second from the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from zope.interface import Attribute, Interface

from mailserver.values.account import Account, Resolution, Secrets
from mailserver.values.address import Address
from mailserver.values.content import Content
from mailserver.values.envelope import Entry, Envelope, Recipient
from mailserver.values.listing import Listing as Listing
from mailserver.values.listing import Listings
from mailserver.values.outcome import Outcome
from mailserver.values.reply import Reply
from mailserver.values.session import TLSFacts
from mailserver.values.value import value

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred


# -- the spool ---------------------------------------------------------------------------------


class SpoolUnavailable(Exception):
    """Nothing was kept; the client is told 451 4.3.0 and tries again."""


class SpoolFull(SpoolUnavailable):
    """No room on the disk; the client is told 452 4.3.1."""


ANY_LANE = (0, 1, 2, 3)
"""The lanes in which recipients wait: 0 those of whom it is not known, then local, remote, reports."""


@value(frozen=True, slots=True)
class Notice:
    """A message of our own (a DSN) to be spooled in the same commit as the outcomes it tells."""

    envelope: Envelope
    content: bytes


class ISpoolWriter(Interface):
    """One message on its way into the spool."""

    id: int = Attribute("the entry's number, known before anything is written")

    def write(chunk: bytes) -> Future[None] | None:
        """Append octets of canonical content.

        Returns ``None``, or a future when the disk lags behind: write no more until it is done.
        A failure to write is kept and raised by ``commit``.
        """

    def commit(envelope: Envelope) -> Future[Entry]:
        """Make message and envelope durable; the future is done when a power cut no longer matters.

        The entry that it gives is leased to the caller, all recipients waiting; but an envelope
        that ``is_kept_back`` is leased to nobody: ``due`` gives it at ``release_at``, or after it
        was released.  Fails with ``SpoolUnavailable``; then nothing is kept.
        """

    def entry(envelope: Envelope) -> Entry | Future[Entry] | None:
        """The entry that ``commit`` would give, for an attempt before anything is kept; ``None`` where there
        must be none: a number that might come back after a power cut.

        A future where the content is still on its way to a file; it fails with ``SpoolUnavailable``.
        ``commit`` may follow, with the same recipients or with some of them; until then or ``abort`` the
        content can be read.
        """

    def abort() -> None:
        """Forget what was written. Harmless at any time, also twice and after ``commit``."""


class ISpool(Interface):
    """Messages that we answer for and that are not finished.

    An entry that ``commit``, ``due`` or ``record`` gave out is leased: ``due`` does not give those
    recipients again until ``record`` has their outcomes, or the server starts anew.
    """

    def begin() -> ISpoolWriter:
        """Start a message. Never blocks."""

    def due(
        now: float, limit: int, lanes: Sequence[int] = ANY_LANE, without: Sequence[int] = ()
    ) -> Future[Sequence[Entry]]:
        """Entries with recipients whose time has come, leased: at most ``limit`` for each of ``lanes``, the
        oldest first, and none whose number is in ``without``."""

    def next_due() -> Future[float | None]:
        """When the next recipient that is not leased falls due; ``None`` when nobody waits."""

    def is_gone(entry_id: int) -> Future[bool]:
        """Whether nobody waits for an entry any more."""

    def expedite(domain: str) -> Future[int]:
        """Make due now what has been tried before and waits for ``domain`` (a ``domain_key``); of how
        many messages. What is leased, held, or not yet released stays."""

    def give_back(entry: Entry, lane: int = 0) -> Future[None]:
        """End the lease on an entry's waiting recipients without an attempt: they are due at once, in
        ``lane``."""

    def record(
        entry: Entry, outcomes: Sequence[Outcome], notices: Sequence[Notice] = ()
    ) -> Future[Sequence[Entry]]:
        """Make outcomes durable and spool the notices, in one commit.

        Delivered, Relayed and Failed recipients are forgotten; Delayed ones wait until
        ``retry_at``.  An entry for which nobody waits goes, with its content.  Gives the entries
        made from ``notices``, leased as ``ISpoolWriter.commit`` says.
        """


# -- out ---------------------------------------------------------------------------------------


class IDeliveryAgent(Interface):
    """A way out: a mailbox here, another server, a command."""

    def attempt(entry: Entry, recipients: Sequence[Recipient]) -> Deferred[Sequence[Outcome]]:
        """Try once; exactly one outcome for each recipient.

        Never fails: a fault of its own is a ``Delayed`` with status 4.3.0.
        """


class IRelay(IDeliveryAgent):
    """A way out to several places at once."""

    def attempt_each(
        entry: Entry, recipients: Sequence[Recipient], told: Callable[[Sequence[Outcome]], None]
    ) -> Deferred[Sequence[Outcome]]:
        """As ``attempt``; ``told`` hears what has come of some while others are still under way, so that it
        can be recorded before a crash forgets it. All of it is given again at the end."""


class IMailbox(Interface):
    """One user's mail at rest."""

    format: str = Attribute("``maildir`` or ``mbox``, as logs and outcomes name it")

    def deliver(delivery: Delivery) -> Future[None]:
        """Put a message into the mailbox; done when it is durable.

        The same ``delivery.name`` twice leaves one message.  Fails with ``OSError`` (the disk's
        own reason) or ``MailboxUnavailable``; then no part of the message is visible.
        """

    def over_quota() -> bool:
        """Whether a quota leaves room for nothing more, as far as is known. Never waits for the disk."""

    def maildrop(locked: Callable[[], None] = ...) -> IMaildrop:
        """Lock the mailbox for one POP3 session and take a snapshot. Blocks: call it in a thread.

        ``locked`` is called in between; what it raises ends the matter, with the lock given back.

        Raises:
            MaildropInUse: another session has the lock.
            MaildropUnusable: somebody has to mend the mailbox.
            OSError: the mailbox cannot be read.
        """


@value(frozen=True, slots=True)
class Delivery:
    """``name`` is unique to this message and mailbox and the same in every attempt; ``header`` is
    what final delivery prepends (Return-Path, Delivered-To; CRLF); ``arrived`` in seconds since
    the epoch; ``repeated`` tells that an earlier attempt may have left the message behind."""

    name: str
    header: bytes
    content: Content
    reverse_path: Address
    arrived: float
    repeated: bool = False


class MailboxUnavailable(Exception):
    """The mailbox cannot take mail now; the text says why, for the log and the report."""


class StoreStopping(MailboxUnavailable):
    """The server stops before it has come to the mailbox; the next start does."""


class MailboxFull(MailboxUnavailable):
    """A quota leaves no room; ``refused`` says that the message shall be returned at once."""

    def __init__(self, text: str, refused: bool = False) -> None:
        super().__init__(text)
        self.refused = refused


class MaildropInUse(Exception):
    """Another session holds the maildrop's exclusive lock (RFC 1939 §4, RFC 2449 §8.1.1)."""


class MaildropUnusable(OSError):
    """The mailbox is not ours to use, and will not be before somebody mends it (RFC 3206: SYS/PERM)."""


class IMaildrop(Interface):
    """POP3's locked view of a mailbox: a snapshot that does not change but by marks.

    Messages are named by their index, from 0. All methods may touch the disk: call them in a
    thread, but for ``listings``, ``mark``, ``unmark``, ``marked``, ``release`` and ``whole``.
    """

    listings: Listings = Attribute("every message, in the order of its number")
    marked: set[int] = Attribute("indexes marked as deleted")

    def whole(index: int) -> bytes | None:
        """A small message as ``read`` gives it, in one piece, if it is in memory. For the reactor's thread.

        ``None`` when the disk would have to be waited for, when it has vanished, when it is not as long
        as listed, or has a CR or LF that stands alone: then ``read`` it.
        """

    def read(index: int) -> Iterator[bytes]:
        """The message in canonical form (CRLF), in pieces; ``OSError`` when it has vanished."""

    def mark(index: int) -> None:
        """Mark as deleted."""

    def unmark_all() -> None:
        """Take back every mark (RSET)."""

    def commit() -> int:
        """Remove what is marked, durably; how many of the marked messages could not be removed."""

    def release() -> None:
        """Give up the lock, without removing anything. Harmless twice."""


class IMailExchanges(Interface):
    """Where mail for a domain goes."""

    def exchanges(domain: str) -> Deferred[Sequence[Exchange]]:
        """The hosts to try, in order.

        Fails with ``NoSuchDomain``, ``NullMX``, ``LoopsBack`` (permanent) or ``LookupDelayed``.
        """

    def next_hop(host: str, port: int) -> Deferred[Sequence[Exchange]]:
        """The host that an administrator named instead; MX records do not count, and nothing is refused.

        Fails with ``LookupDelayed`` when it has no address now.
        """


@value(frozen=True, slots=True)
class Exchange:
    """A host to connect to. ``name`` is an MX target, a next hop's name or an address literal.

    ``listed`` tells that DNSSEC vouches for it being a mail exchange of the domain (RFC 7672 §2.2.1),
    ``authentic`` for its addresses; ``canonical`` is the name at the end of its CNAMEs.
    """

    name: str
    port: int
    addresses: tuple[str, ...] = ()
    listed: bool = False
    authentic: bool = False
    canonical: str = ""


class NoExchange(Exception):
    """There is nowhere to send to, for good. ``status`` is the enhanced status to report."""

    status = "5.4.4"


class NoSuchDomain(NoExchange):
    """NXDOMAIN, or no address at all (RFC 5321 §5.1)."""

    status = "5.1.2"


class NullMX(NoExchange):
    """The domain says that it takes no mail (RFC 7505)."""

    status = "5.1.10"


class LoopsBack(NoExchange):
    """We are the domain's best mail exchange, and it is not a domain of ours (RFC 5321 §5.1)."""

    status = "5.4.6"


class LookupDelayed(Exception):
    """DNS did not answer or answered SERVFAIL: try later."""


# -- who is local, who may -------------------------------------------------------------------


class IDirectory(Interface):
    """Domains, users, aliases and mailing lists; docs/writing-a-directory.md builds one.

    A provider may also have ``open()``, called once before all questions, and ``close()``.
    """

    def resolve(address: Address) -> Resolution:
        """Who an address belongs to, without expanding aliases. Never blocks for long."""

    def password_hash(login: str) -> tuple[Account, str] | None:
        """The account that logs in as ``login`` (its full address, or its local part where that
        is enough) and its Argon2id hash; ``None`` for nobody."""

    def secrets(login: str) -> tuple[Account, Secrets] | None:
        """As ``password_hash``, with everything that is kept of the password."""


class IRule(Interface):
    """One rule of policy."""

    def __call__(facts: object) -> Reply | Deferred[Reply | None] | None:
        """An opinion, or ``None`` for none."""


class ISubmitter(Interface):
    """What ``login.py`` gives to SMTP AUTH: somebody who may submit mail."""

    account: Account = Attribute("who logged in")


class IMaildropOwner(Interface):
    """What ``login.py`` gives to POP3: somebody with a mailbox."""

    account: Account = Attribute("who logged in")

    def maildrop(locked: Callable[[], None] = ...) -> Deferred[IMaildrop]:
        """Lock and open the maildrop, off the reactor; see ``IMailbox.maildrop``."""


class LoginUnavailable(Exception):
    """The password could not be checked now: 454 4.7.0, or ``-ERR [SYS/TEMP]``."""


class ITokenChecker(Interface):
    """What an administrator names as ``login.oauth``: it knows whose a bearer token is.

    ``failure`` may hold further fields for the client whose token is refused (RFC 7628 §3.2.2):
    ``scope``, ``openid-configuration``.
    """

    def user_of(token: str, username: str) -> str | Deferred[str | None] | None:
        """The login name whom ``token`` speaks for, or ``None`` for a token that is not good.

        ``username`` is who the client says it is, ``""`` when it says nothing; the name given
        back decides.  An awaitable will do.  An exception: it cannot be checked now.
        """


@value(frozen=True, slots=True)
class LoggedIn:
    """``avatar`` is what twisted.cred gave; ``username`` what the client called itself."""

    avatar: Any
    username: str


@value(frozen=True, slots=True)
class LoginRefused:
    """Why nobody logged in: ``"wrong"`` credentials, ``"unavailable"`` now, ``"forbidden"`` to act for
    another, or a ``"malformed"`` response; ``text`` says more in the last two cases."""

    reason: str
    text: str = ""


class ILogin(Interface):
    """One exchange, from a mechanism to a log-in or a refusal."""

    def step(response: bytes | None) -> object:
        """Take a response, decoded; ``None`` where none came.

        Gives a ``wire.sasl.Challenge`` to send, ``LoggedIn``, ``LoginRefused``, or a ``Deferred``
        of one of these, which never fails.
        """


class IAuthenticator(Interface):
    """Log-in for one protocol; what failures cost is known to it alone."""

    def begin(mechanism: str, host: str, tls: TLSFacts | None, gone: Callable[[], bool]) -> ILogin:
        """An exchange with the client at ``host`` by a mechanism that it has been offered.

        ``gone`` tells whether the client has left: then nothing is checked any more.
        """

    def log_in(
        username: str, password: str, host: str, gone: Callable[[], bool]
    ) -> Deferred[LoggedIn | LoginRefused]:
        """Log in by a name and a password that came some other way (USER and PASS)."""

    def log_in_by(
        credentials: Any, mechanism: str, host: str, gone: Callable[[], bool]
    ) -> Deferred[LoggedIn | LoginRefused]:
        """Log in by other credentials, which have a ``username`` (APOP)."""


RetrySchedule = Callable[[float, int, float], float | None]
"""``(arrived, attempts, now)`` -> when to try next, or ``None`` to give up. All in seconds since
the epoch; ``attempts`` counts the one that has just been made."""
