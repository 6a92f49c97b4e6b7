"""What a POP3 client asks for, as values: each event waits for one answer to the machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from mailserver.wire.pop3_apop import ApopResponse
from mailserver.wire.pop3_xclient import Client


@dataclass(frozen=True, slots=True)
class LogIn:
    """USER and PASS. Answer with ``logged_in`` or ``login_refused``."""

    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class AuthBegin:
    """AUTH with a mechanism that is offered; ``initial`` is decoded, ``None`` when none was sent.

    Answer with ``challenge``, ``logged_in``, ``login_refused`` or ``auth_failed``.
    """

    mechanism: str
    initial: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class AuthResponse:
    """The decoded response to a challenge. Answer as ``AuthBegin``."""

    octets: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Apop:
    """APOP, where it is offered. Answer as ``LogIn``."""

    response: ApopResponse


@dataclass(frozen=True, slots=True)
class XClient:
    """A proxy that is trusted speaks for ``client``. Answer with ``moved``."""

    client: Client


@dataclass(frozen=True, slots=True)
class StartTLS:
    """STLS; its ``+OK`` is queued. Send it, start TLS, and answer with ``tls_started``.

    Where ``Pop3Server.plaintext_pending`` is true, drop the connection instead.
    """


@dataclass(frozen=True, slots=True)
class Transmit:
    """A response too long to be queued at once, whole from ``+OK`` to the final dot.

    Send all ``pieces``, then answer with ``transmitted``.
    """

    pieces: Iterator[bytes]


@dataclass(slots=True)
class Retrieve:
    """RETR, or TOP where ``lines`` is not ``None``.

    Send ``opening``, then the message at ``index`` (from 0) dot-stuffed with its final dot, and
    answer with ``transmitted``; or send nothing and answer with ``refuse``.
    """

    index: int
    lines: int | None
    opening: bytes


def retrieve(index: int, lines: int | None, opening: bytes) -> Retrieve:
    """The same as ``Retrieve(…)``: to call a class with ``__init__`` takes Python 3.11 thrice the time."""
    event = _new(Retrieve)
    event.index, event.lines, event.opening = index, lines, opening
    return event


_new = object.__new__


@dataclass(frozen=True, slots=True)
class Update:
    """QUIT after log-in. Remove the ``marked`` indexes, unlock, answer with ``updated``."""

    marked: frozenset[int]


@dataclass(frozen=True, slots=True)
class HangUp:
    """The session is over: send what is queued and close. Takes no answer, and nothing follows."""


Event = LogIn | Apop | AuthBegin | AuthResponse | XClient | StartTLS | Transmit | Retrieve | Update | HangUp
