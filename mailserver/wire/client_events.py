"""What the SMTP client's machine tells its driver: stages of a session, and events (RFC 5321)."""

from __future__ import annotations

from enum import Enum

from mailserver.values.reply import Reply
from mailserver.values.value import value


class Stage(Enum):
    """What the next reply answers. The value is how a diagnostic names it."""

    # Members are one of a kind; Enum's own hash is a call in Python, several times for each reply.
    __hash__ = object.__hash__

    CONNECT = "a connection"
    GREETING = "the greeting"
    EHLO = "EHLO"
    HELO = "HELO"
    STARTTLS = "STARTTLS"
    HANDSHAKE = "the TLS handshake"
    AUTH = "AUTH"
    MAIL = "MAIL FROM"
    RCPT = "RCPT TO"
    DATA = "DATA"
    CONTENT = "the message content"
    END = "the end of data"
    RSET = "RSET"
    QUIT = "QUIT"
    IDLE = "nothing"


# -- events --------------------------------------------------------------------------------------


@value(frozen=True, slots=True)
class StartTLS:
    """Begin the handshake now, then call ``tls_started``. Nothing plain was held back."""


@value(frozen=True, slots=True)
class Ready:
    """The session takes transactions; ``machine.extensions`` is final."""


@value(frozen=True, slots=True)
class SendContent:
    """Somebody is to get the message: send it dot-stuffed with its final dot, or, when ``as_it_is``,
    exactly as many octets as ``begin`` was told (BDAT, RFC 3030); then call ``content_sent``."""

    as_it_is: bool = False


@value(frozen=True, slots=True)
class TransactionDone:
    """One reply for each recipient, in the order given; the session is ready for the next."""

    replies: tuple[Reply, ...]


@value(frozen=True, slots=True)
class SessionEnded:
    """Nothing more can be done here; close the connection.

    ``reply`` is what the server said, if it did; ``reason`` one line in our words; ``replies``
    belong to the open transaction, ``None`` for each recipient whose fate is not known; ``status`` is for
    the report, where we know a better one than the stage says.
    """

    stage: Stage
    reason: str
    reply: Reply | None = None
    replies: tuple[Reply | None, ...] = ()
    status: str = ""


Event = StartTLS | Ready | SendContent | TransactionDone | SessionEnded
