"""What an SMTP client has said, as values, and what a listener offers it."""

from __future__ import annotations

from mailserver.values.address import Address
from mailserver.values.reply import Reply
from mailserver.values.value import value


@value(frozen=True, slots=True)
class Offer:
    """What one listener offers. ``role`` is ``"smtp"``, ``"submission"`` or ``"lmtp"``.

    ``message_size`` is in octets, ``recipients`` is for one transaction.  ``mechanisms`` are SASL
    names in upper case, offered on the role ``submission`` alone, and in the clear only with
    ``cleartext_auth``.  ``normalize``: bare line ends in content are mended and not refused.

    ``future_release`` is the longest delay in seconds that a submission may ask for (RFC 4865; 0:
    none); ``require_tls``: messages can be kept to verified TLS (RFC 8689); ``etrn``: there are
    domains whose queue may be started (RFC 1985).

    ``messages`` of one session and ``domains`` of the recipients of one message (RFC 9422; 0: no
    limit); ``trusted``: the client's network may relay, and is believed in what it asks for.

    Who may write to terminals (``terminals``: SEND, SOML, SAML), be told of a mailbox (``verify``:
    VRFY) and of the members of a list (``expand``: EXPN): ``"nobody"``, ``"users"`` who have logged
    in, or ``"everybody"``.
    """

    hostname: str
    role: str
    message_size: int
    recipients: int
    starttls: bool = False
    mechanisms: tuple[str, ...] = ()
    cleartext_auth: bool = False
    normalize: bool = False
    future_release: int = 0
    require_tls: bool = False
    etrn: bool = False
    messages: int = 0
    domains: int = 0
    trusted: bool = False
    terminals: str = "nobody"
    verify: str = "nobody"
    expand: str = "nobody"


@value(frozen=True, slots=True)
class Hello:
    """EHLO or LHLO (``extended``), or HELO. An open transaction has ended (RFC 5321 §4.1.4).

    ``name`` has 1 to 255 characters, each a letter, a digit or one of ``.-_:[]?``, the last
    standing for whatever else the client sent: it is fit for headers and logs.
    """

    name: str
    extended: bool

    @property
    def is_literal(self) -> bool:
        """Whether the client named itself by an address literal (RFC 5321 §4.1.3)."""
        return self.name.startswith("[")


@value(frozen=True, slots=True)
class MailFrom:
    """MAIL. ``path`` may be the null sender; ``size`` is what SIZE declared, 0 when it did not.

    ``body`` is ``"7BIT"``, ``"8BITMIME"`` (RFC 6152) or ``"BINARYMIME"`` (RFC 3030), ``ret`` is
    ``"FULL"``, ``"HDRS"`` or ``""``; ``envid`` is as it was sent, in xtext (RFC 3461 §4.4); ``auth``
    is decoded: a mailbox, ``"<>"``, or ``""`` when it was not given (RFC 4954 §5).

    ``by`` is a time in seconds from now, perhaps past, and ``"R"``, ``"N"``, ``"RT"``, ``"NT"`` or
    ``""`` (RFC 2852); ``hold_for`` is in seconds, ``hold_until`` in seconds since the epoch, at most
    one is not 0 (RFC 4865); ``priority`` is -9 to 9 (RFC 6710).

    ``verb`` is SEND, SOML or SAML where the message is for terminals (RFC 821 §3.4).
    """

    path: Address
    size: int = 0
    body: str = "7BIT"
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    auth: str = ""
    by: tuple[int, str] = (0, "")
    hold_for: int = 0
    hold_until: float = 0.0
    priority: int = 0
    require_tls: bool = False
    verb: str = "MAIL"


@value(frozen=True, slots=True)
class RcptTo:
    """RCPT. ``path.domain`` is ``""`` only for the bare Postmaster, in any case (RFC 5321 §4.5.1).

    ``notify`` holds NEVER, or some of SUCCESS, FAILURE, DELAY, or nothing; ``orcpt`` is as it was
    sent: ``rfc822;`` and xtext, for example (RFC 3461 §4.1, §4.2).
    """

    path: Address
    notify: frozenset[str] = frozenset()
    orcpt: str = ""


@value(frozen=True, slots=True)
class DataBegin:
    """DATA, or the first BDAT (``chunked``). 354 goes on to the content, and is not said to BDAT;
    any other answer ends the transaction."""

    chunked: bool = False


@value(frozen=True, slots=True)
class ContentChunk:
    """Some content in canonical form, dots un-stuffed, binary parts in base64, never empty. Needs no
    answer."""

    octets: bytes


@value(frozen=True, slots=True)
class ContentEnd:
    """The end of data. With a ``fault``, forget the content and answer with it.

    The answer ends the transaction, whatever it is; over LMTP it is said once for each recipient.
    """

    fault: Reply | None


@value(frozen=True, slots=True)
class StartTLS:
    """STARTTLS. After 220 nothing is read until ``tls_started()``."""


@value(frozen=True, slots=True)
class AuthBegin:
    """AUTH with a mechanism that is offered; ``initial`` is decoded, ``None`` when none was sent."""

    mechanism: str
    initial: bytes | None


@value(frozen=True, slots=True)
class AuthResponse:
    """The decoded answer to a challenge; ``None``: the client cancelled with ``*`` (RFC 4954 §4)."""

    octets: bytes | None


@value(frozen=True, slots=True)
class Reset:
    """RSET. An open transaction has ended."""


@value(frozen=True, slots=True)
class Quit:
    """QUIT. An open transaction has ended; after the answer nothing is read any more."""


@value(frozen=True, slots=True)
class Verify:
    """VRFY; the argument is valid UTF-8 without control characters.

    ``smtputf8``: the answer may hold other than ASCII (RFC 6531 §3.7.4.2); ``permitted``: the client
    may be told whether there is a mailbox.
    """

    argument: str
    smtputf8: bool = False
    permitted: bool = False


@value(frozen=True, slots=True)
class Expand:
    """EXPN, by who may ask it; the fields are those of ``Verify``."""

    argument: str
    smtputf8: bool = False


@value(frozen=True, slots=True)
class StartQueue:
    """ETRN: what waits for ``domain`` should be tried now (RFC 1985)."""

    domain: str


@value(frozen=True, slots=True)
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
    | StartQueue
    | Refused
)
