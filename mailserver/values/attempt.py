"""One try at one address of a mail exchange: what was said, how long it took, how TLS was verified."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

from mailserver.values.reply import Reply
from mailserver.values.text import printable
from mailserver.values.value import value

_STEPS, _TEXT = 30, 300
"""What is kept of a dialogue: its first replies, and so many characters of each."""


@dataclass(frozen=True, slots=True)
class Step:
    """``seconds`` since the attempt began, ``stage`` what was answered (``"MAIL FROM"``), ``text`` the reply,
    one printable line."""

    seconds: float
    stage: str
    text: str


class Dialogue(Sequence[Step]):
    """Steps that are made when somebody looks: nearly always nobody does."""

    __slots__ = ("_said", "_since")

    def __init__(self, said: Sequence[tuple[float, str, Reply]], since: float) -> None:
        """``said``: when each reply came, what it answered, and the reply; ``since`` when the attempt began,
        by the same clock. The list is the dialogue's own from here on."""
        self._said = said
        self._since = since

    def __len__(self) -> int:
        return len(self._said)

    def __iter__(self) -> Iterator[Step]:
        for at, stage, reply in self._said:
            yield Step(at - self._since, stage, printable(reply.text))

    @overload
    def __getitem__(self, index: int) -> Step: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Step]: ...
    def __getitem__(self, index: int | slice) -> Step | Sequence[Step]:
        if isinstance(index, slice):
            return tuple(Dialogue(self._said[index], self._since))
        at, stage, reply = self._said[index]
        return Step(at - self._since, stage, printable(reply.text))


@value(frozen=True, slots=True, kw_only=True)
class Attempt:
    """``at`` in seconds since the epoch; ``host``, ``address`` and ``port`` as they were tried; ``tls`` the
    protocol and cipher, ``""`` in clear; ``verified`` by what the certificate was (``"DANE"``…), ``""`` when
    by nothing; ``uses`` counts the transactions of the session, this one included; ``looked`` are the seconds
    that DNS and policies took before it, 0 when they were known; ``ended`` says in our words why it went no
    further, ``""`` when it did."""

    at: float
    host: str
    address: str
    port: int
    tls: str = ""
    verified: str = ""
    uses: int = 0
    looked: float = 0.0
    connected: float = 0.0
    opened: float = 0.0
    finished: float = 0.0
    steps: Sequence[Step] = ()
    ended: str = ""

    def fields(self) -> dict[str, Any]:
        """For JSON; ``phases`` are seconds: DNS, connection, greeting to readiness, transaction."""
        return {
            "at": self.at,
            "host": self.host,
            "address": self.address,
            "port": self.port,
            "tls": self.tls,
            "verified": self.verified,
            "uses": self.uses,
            "phases": {
                "dns": round(self.looked, 3),
                "connect": round(self.connected, 3),
                "open": round(max(0.0, self.opened - self.connected), 3),
                "transaction": round(max(0.0, self.finished - self.opened), 3),
            },
            "steps": [[round(s.seconds, 3), s.stage, s.text[:_TEXT]] for s in self.steps[:_STEPS]],
            "ended": self.ended,
        }


@value(frozen=True, slots=True)
class Facts:
    """What the recipients of one transaction have in common: seconds until the session was ready and in the
    transaction, how often the session had been used with it (0: never), and every address that was tried."""

    setup: float = 0.0
    sending: float = 0.0
    uses: int = 0
    attempts: tuple[Attempt, ...] = ()
