"""The one table of SMTP: which command is legal when and where, its syntax and help.

With the same facts ``smtp_parameters`` says when each parameter of MAIL and RCPT is legal, and
``smtp_extensions`` what EHLO offers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from mailserver.values.reply import Reply, reply
from mailserver.wire.smtp_events import Offer

# Facts about a session, one bit each; plain integers, for they are tested on every command.
HELLO = 1 << 0
"""EHLO or HELO was accepted."""
TRANSACTION = 1 << 1
"""MAIL was accepted."""
ATTEMPTED = 1 << 2
"""The transaction has seen a RCPT, good or bad."""
RECIPIENT = 1 << 3
"""The transaction has an accepted recipient."""
TLS = 1 << 4
"""TLS is active."""
STARTTLS = 1 << 5
"""The listener can start TLS."""
TLS_FIRST = 1 << 6
"""This listener wants TLS before log-in and mail, and STARTTLS is the way to it."""
MECHANISMS = 1 << 7
"""The listener has SASL mechanisms."""
PRIVATE = 1 << 8
"""A password may be sent: under TLS, or the administrator allows it in the clear."""
AUTHENTICATED = 1 << 9
"""The client has logged in."""
ENTITLED = 1 << 10
"""The client may begin a transaction: it has logged in, or this role does not ask for it."""
CHUNKED = 1 << 11
"""Content of the transaction has come by BDAT."""
BINARY = 1 << 12
"""MAIL said BODY=BINARYMIME."""
FUTURE_RELEASE = 1 << 13
"""A message may ask to be released later."""
PRIORITY = 1 << 14
"""A message may ask for a priority."""
REQUIRE_TLS = 1 << 15
"""A message may ask to be kept to verified TLS: TLS is active, and the relay enforces it."""
ETRN = 1 << 16
"""There are domains whose queue may be started."""
_NEVER = 1 << 17
UTF8 = 1 << 18
"""MAIL said SMTPUTF8."""
FULL = 1 << 19
"""The transaction has as many recipients as it may."""
TERMINALS = 1 << 20
"""The client may write to users' terminals."""
VERIFY = 1 << 21
"""The client may ask who has a mailbox here."""
EXPAND = 1 << 22
"""The client may ask who is behind an alias or a list."""

IN_TRANSACTION = TRANSACTION | ATTEMPTED | RECIPIENT | CHUNKED | BINARY | UTF8 | FULL
"""What the end of a transaction makes false."""

LINE_OCTETS = 2048
"""The longest command line but for those below, without its line feed (RFC 5321 §4.5.3.1.4: at least 512)."""
PATH_LINE_OCTETS = 4096
"""MAIL and RCPT grow by RFC 3461 §4.5, RFC 6531 §3.4 and others."""
AUTH_LINE_OCTETS = 12288
"""RFC 4954 §4."""


SMTP, SUBMISSION, LMTP = "smtp", "submission", "lmtp"
ROLES = (SMTP, SUBMISSION, LMTP)
"""The roles of listeners."""


class Condition(NamedTuple):
    """``facts & bit`` must equal ``wanted``, or else ``refusal`` is the reply."""

    bit: int
    wanted: int
    refusal: Reply


def _needs(bit: int, code: int, enhanced: str, text: str) -> Condition:
    return Condition(bit, bit, reply(code, enhanced, text))


def _forbids(bit: int, code: int, enhanced: str, text: str) -> Condition:
    return Condition(bit, 0, reply(code, enhanced, text))


_HELLO_FIRST = _needs(HELLO, 503, "5.5.1", "Send EHLO or HELO first")
_MAIL_FIRST = _needs(TRANSACTION, 503, "5.5.1", "Send MAIL FROM:<address> first")
_NO_BDAT = _forbids(CHUNKED, 503, "5.5.1", "The content has begun with BDAT; go on with BDAT, or RSET")
_ATTEMPT_FIRST = _needs(ATTEMPTED, 503, "5.5.1", "Send RCPT TO:<address> first")
_SOMEBODY = _needs(RECIPIENT, 554, "5.5.1", "No valid recipients")
_IN_LMTP = {
    _HELLO_FIRST: _needs(HELLO, 503, "5.5.1", "Send LHLO first"),
    _SOMEBODY: _needs(RECIPIENT, 503, "5.5.1", "No valid recipients"),  # RFC 2033 §4.2
}
"""What LMTP says in the place of SMTP's words."""
_TLS_FIRST = _forbids(TLS_FIRST, 530, "5.7.0", "Must issue a STARTTLS command first")


@dataclass(frozen=True, slots=True)
class Command:
    """One row. ``order`` is looked through from the left; the first condition that fails answers.

    ``argument`` is ``"none"``, ``"optional"`` or ``"needed"``; ``longest`` bounds the line, in
    octets before its line feed; ``meaning`` is what HELP says; ``roles`` are the listeners that know
    the command.
    """

    verb: str
    syntax: str
    argument: str
    meaning: tuple[str, ...]
    order: tuple[Condition, ...] = ()
    longest: int = LINE_OCTETS
    roles: tuple[str, ...] = ROLES

    @property
    def bad_syntax(self) -> Reply:
        return reply(501, "5.5.4", f"Syntax: {self.syntax}")

    def objection(self, facts: int) -> Reply | None:
        """Why the command is not legal now; ``None`` when it is."""
        for bit, wanted, refusal in self.order:
            if facts & bit != wanted:
                return refusal
        return None


def _absent(verb: str, why: str) -> Command:
    text = f"{verb} is not implemented: {why}"
    return Command(verb, verb, "optional", (text,), (_needs(_NEVER, 502, "5.5.1", text),))


_TRANSACTION_OPEN = _forbids(
    TRANSACTION, 503, "5.5.1", "A transaction is open; go on with RCPT or end it with RSET"
)
_LOG_IN_FIRST = _needs(ENTITLED, 530, "5.7.0", "Authentication required")


def _to_terminals(verb: str, meaning: str) -> Command:
    """RFC 821 §3.4: MAIL by another name."""
    return Command(
        verb,
        f"{verb} FROM:<address>",
        "needed",
        (meaning, "Parameters as of MAIL."),
        (
            _needs(TERMINALS, 502, "5.5.1", f"{verb} is not offered here now; use MAIL"),
            _HELLO_FIRST,
            _TLS_FIRST,
            _LOG_IN_FIRST,
            _TRANSACTION_OPEN,
        ),
        PATH_LINE_OCTETS,
    )


_ROWS = (
    Command(
        "EHLO",
        "EHLO hostname",
        "needed",
        ("Begins a session and lists the extensions; it also ends an open transaction.",),
        roles=(SMTP, SUBMISSION),
    ),
    Command(
        "LHLO",
        "LHLO hostname",
        "needed",
        ("Begins a session and lists the extensions; it also ends an open transaction.",),
        roles=(LMTP,),
    ),
    Command(
        "HELO",
        "HELO hostname",
        "needed",
        ("Begins a session without extensions; a bare word will do. It also ends an open transaction.",),
        roles=(SMTP, SUBMISSION),
    ),
    Command(
        "STARTTLS",
        "STARTTLS",
        "none",
        ("Starts TLS; after it the session begins again with EHLO.",),
        (
            _forbids(TLS, 503, "5.5.1", "TLS is already active"),
            _needs(STARTTLS, 502, "5.5.1", "STARTTLS is not offered here"),
            _forbids(AUTHENTICATED, 503, "5.5.1", "STARTTLS comes before AUTH"),
        ),
    ),
    Command(
        "AUTH",
        "AUTH mechanism [initial-response]",
        "needed",
        (
            "Logs in. The initial response is in base64, = for an empty one.",
            "A single * on a line cancels the exchange.",
        ),
        (
            _needs(MECHANISMS, 502, "5.5.1", "AUTH is not offered here"),
            _HELLO_FIRST,
            _TLS_FIRST,
            _needs(PRIVATE, 538, "5.7.11", "Encryption required for requested authentication mechanism"),
            _forbids(TRANSACTION, 503, "5.5.1", "AUTH comes before MAIL; RSET ends the transaction"),
            _forbids(AUTHENTICATED, 503, "5.5.1", "You are already logged in"),
        ),
        AUTH_LINE_OCTETS,
    ),
    Command(
        "MAIL",
        "MAIL FROM:<address>",
        "needed",
        (
            "Opens a transaction and names the sender; <> is the null sender of reports.",
            "Parameters: SIZE=octets BODY=7BIT|8BITMIME|BINARYMIME SMTPUTF8 RET=FULL|HDRS ENVID=xtext",
            "AUTH=xtext BY=seconds;R|N; where EHLO offers them HOLDFOR=seconds HOLDUNTIL=time",
            "MT-PRIORITY=-9..9 REQUIRETLS",
        ),
        (
            _HELLO_FIRST,
            _TLS_FIRST,
            _LOG_IN_FIRST,
            _TRANSACTION_OPEN,
        ),
        PATH_LINE_OCTETS,
    ),
    Command(
        "RCPT",
        "RCPT TO:<address>",
        "needed",
        (
            "Names one recipient; repeat it for each.",
            "Parameters: NOTIFY=NEVER|SUCCESS,FAILURE,DELAY ORCPT=rfc822;xtext",
        ),
        (_MAIL_FIRST, _NO_BDAT),
        PATH_LINE_OCTETS,
    ),
    Command(
        "DATA",
        "DATA",
        "none",
        (
            "Sends the message: wait for 354, send header, an empty line and text,",
            "then a line with a single dot. A line that begins with a dot gets a second one in front.",
        ),
        (
            _MAIL_FIRST,
            _ATTEMPT_FIRST,
            _SOMEBODY,
            _NO_BDAT,
            _forbids(BINARY, 503, "5.5.1", "BODY=BINARYMIME needs BDAT"),
        ),
    ),
    Command(
        "BDAT",
        "BDAT octets [LAST]",
        "optional",  # without one it is no BDAT that anybody could follow; its reader says so
        (
            "Sends a piece of the message: exactly so many octets follow the line, no dots are doubled.",
            "The piece called LAST ends the message.",
        ),
        (_MAIL_FIRST, _ATTEMPT_FIRST, _SOMEBODY),
    ),
    Command("RSET", "RSET", "none", ("Ends the transaction; sender and recipients are forgotten.",)),
    Command("NOOP", "NOOP [text]", "optional", ("Does nothing.",)),
    Command("HELP", "HELP [command]", "optional", ("Lists what is legal now, or explains one command.",)),
    Command(
        "VRFY",
        "VRFY address [SMTPUTF8]",
        "needed",
        ("Asks whether an address is a mailbox here; 252 says that it is not told to you.",),
    ),
    Command(
        "EXPN",
        "EXPN list [SMTPUTF8]",
        "needed",
        ("Asks who is behind an alias or a mailing list.",),
        (_needs(EXPAND, 550, "5.7.1", "Lists are not expanded for you"),),
    ),
    Command("QUIT", "QUIT", "none", ("Ends the session.",)),
    Command(
        "ETRN",
        "ETRN domain",
        "needed",
        ("Asks that what waits here for a domain be sent now.",),
        (
            _needs(ETRN, 502, "5.5.1", "ETRN is not offered here"),
            _HELLO_FIRST,
            _forbids(TRANSACTION, 503, "5.5.1", "ETRN comes before MAIL; RSET ends the transaction"),
        ),
        roles=(SMTP, SUBMISSION),
    ),
    _to_terminals(
        "SEND", "As MAIL, but the message is shown on the recipients' terminals, or refused with 450."
    ),
    _to_terminals("SOML", "As MAIL, but the message is shown on a terminal or else kept in the mailbox."),
    _to_terminals("SAML", "As MAIL, and the message is shown on the recipients' terminals too."),
    _absent("TURN", "RFC 5321 appendix F.1 says why"),
)


def _spoken_by(row: Command, role: str) -> Command:
    if role != LMTP:
        return row
    return replace(row, order=tuple(_IN_LMTP.get(condition, condition) for condition in row.order))


COMMANDS = {
    role: {row.verb.encode(): _spoken_by(row, role) for row in _ROWS if role in row.roles} for role in ROLES
}
"""By role: rows by verb, in upper case, in the order in which HELP shows them."""


@lru_cache(maxsize=256)
def facts_at_start(offer: Offer, tls: bool) -> int:
    """The facts of a session in which nothing has been said yet."""
    submits = offer.role == "submission"
    private = tls or offer.cleartext_auth
    truths = (
        (TLS, tls),
        (STARTTLS, offer.starttls and not tls),
        (TLS_FIRST, submits and offer.starttls and not private),
        (MECHANISMS, submits and bool(offer.mechanisms)),
        (PRIVATE, private),
        (ENTITLED, not submits),
        (FUTURE_RELEASE, submits and offer.future_release > 0),
        (PRIORITY, submits or offer.trusted),
        (REQUIRE_TLS, tls and offer.require_tls),
        (ETRN, offer.etrn and offer.role != LMTP),
        (TERMINALS, offer.terminals == "everybody"),
        (VERIFY, offer.verify == "everybody"),
        (EXPAND, offer.expand == "everybody"),
    )
    return sum(bit for bit, true in truths if true)


@lru_cache(maxsize=256)
def facts_by_login(offer: Offer) -> int:
    """The facts that a log-in makes true."""
    truths = (
        (AUTHENTICATED | ENTITLED, True),
        (TERMINALS, offer.terminals == "users"),
        (VERIFY, offer.verify == "users"),
        (EXPAND, offer.expand == "users"),
    )
    return sum(bit for bit, true in truths if true)
