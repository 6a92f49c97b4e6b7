"""What an SMTP client has said, as values, and what a listener offers it."""

from __future__ import annotations

from dataclasses import dataclass

from mailserver.values.address import Address
from mailserver.values.reply import Reply


@dataclass(frozen=True, slots=True)
class Offer:
    """What one listener offers. ``role`` is ``"smtp"`` or ``"submission"``.

    ``message_size`` is in octets, ``recipients`` is for one transaction.  ``mechanisms`` are SASL
    names in upper case, offered on the role ``submission`` alone, and in the clear only with
    ``cleartext_auth``.  ``normalize``: bare line ends in content are mended and not refused.
    """

    hostname: str
    role: str
    message_size: int
    recipients: int
    starttls: bool = False
    mechanisms: tuple[str, ...] = ()
    cleartext_auth: bool = False
    normalize: bool = False


@dataclass(frozen=True, slots=True)
class Hello:
    """EHLO (``extended``) or HELO. An open transaction has ended (RFC 5321 §4.1.4).

    ``name`` has 1 to 255 characters, each a letter, a digit or one of ``.-_:[]?``, the last
    standing for whatever else the client sent: it is fit for headers and logs.
    """

    name: str
    extended: bool

    @property
    def is_literal(self) -> bool:
        """Whether the client named itself by an address literal (RFC 5321 §4.1.3)."""
        return self.name.startswith("[")


@dataclass(frozen=True, slots=True)
class MailFrom:
    """MAIL. ``path`` may be the null sender; ``size`` is what SIZE declared, 0 when it did not.

    ``body`` is ``"7BIT"`` or ``"8BITMIME"`` (RFC 6152), ``ret`` is ``"FULL"``, ``"HDRS"`` or
    ``""``; ``envid`` is as it was sent, in xtext (RFC 3461 §4.4); ``auth`` is decoded: a mailbox,
    ``"<>"``, or ``""`` when it was not given (RFC 4954 §5).
    """

    path: Address
    size: int = 0
    body: str = "7BIT"
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    auth: str = ""


@dataclass(frozen=True, slots=True)
class RcptTo:
    """RCPT. ``path.domain`` is ``""`` only for the bare Postmaster, in any case (RFC 5321 §4.5.1).

    ``notify`` holds NEVER, or some of SUCCESS, FAILURE, DELAY, or nothing; ``orcpt`` is as it was
    sent: ``rfc822;`` and xtext, for example (RFC 3461 §4.1, §4.2).
    """

    path: Address
    notify: frozenset[str] = frozenset()
    orcpt: str = ""


@dataclass(frozen=True, slots=True)
class DataBegin:
    """DATA. 354 goes on to the content; any other answer ends the transaction."""


@dataclass(frozen=True, slots=True)
class ContentChunk:
    """Some content in canonical form, dots un-stuffed, never empty. Needs no answer."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class ContentEnd:
    """The end of data. With a ``fault``, forget the content and answer with it.

    The answer ends the transaction, whatever it is.
    """

    fault: Reply | None


@dataclass(frozen=True, slots=True)
class StartTLS:
    """STARTTLS. After 220 nothing is read until ``tls_started()``."""


@dataclass(frozen=True, slots=True)
class AuthBegin:
    """AUTH with a mechanism that is offered; ``initial`` is decoded, ``None`` when none was sent."""

    mechanism: str
    initial: bytes | None


@dataclass(frozen=True, slots=True)
class AuthResponse:
    """The decoded answer to a challenge; ``None``: the client cancelled with ``*`` (RFC 4954 §4)."""

    octets: bytes | None


@dataclass(frozen=True, slots=True)
class Reset:
    """RSET. An open transaction has ended."""


@dataclass(frozen=True, slots=True)
class Quit:
    """QUIT. An open transaction has ended; after the answer nothing is read any more."""


@dataclass(frozen=True, slots=True)
class Verify:
    """VRFY; the argument is valid UTF-8 without control characters."""

    argument: str


@dataclass(frozen=True, slots=True)
class Expand:
    """EXPN; the argument is valid UTF-8 without control characters."""

    argument: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A command was refused and its reply is already queued. Needs no answer.

    ``command`` is the verb in upper case, or what of an unknown one is printable.  An AUTH
    exchange that was open has ended.  A reply of the 4yz kind (452: too many recipients) is no
    error of the client's.
    """

    reply: Reply
    command: str


Event = (
    Hello
    | MailFrom
    | RcptTo
    | DataBegin
    | ContentChunk
    | ContentEnd
    | StartTLS
    | AuthBegin
    | AuthResponse
    | Reset
    | Quit
    | Verify
    | Expand
    | Refused
)
