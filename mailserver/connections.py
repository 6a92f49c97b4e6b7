"""Connections of all listeners: how many there may be, the sessions on them, and their end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory
from twisted.internet.protocol import Protocol as TwistedProtocol

from mailserver.shared_counts import SharedCounts
from mailserver.values.clients import address_of, client_network, plain_host

CLOSING_SECONDS = 10.0
"""How long a stopping server lets sessions finish what they are at."""

EASY_AGAIN = 0.4
"""The limits tighten when half of the connections are in use, and loosen below this share: a number
of connections that swings around one half must not go through all sessions each time."""

SAID_AGAIN_SECONDS = 60.0
"""A network that is refused over and over is logged once in this time."""

MOST_SAID = 1000
"""Networks remembered for that; a flood from more of them is logged more often, not in more memory."""


class SessionOfFactory(Protocol):
    """What a session owes its factory."""

    @property
    def host(self) -> str:
        """The client's address."""

    def stop(self) -> None:
        """End as soon as what is under way is answered: the server is stopping."""

    def abort(self) -> None:
        """End now."""

    def hurry(self) -> None:
        """The limits have tightened or loosened: look at the clock again."""


S = TypeVar("S", bound=SessionOfFactory)


@dataclass(frozen=True, slots=True)
class Times:
    """How long a client may take, in seconds: until its first command (``greeting``), from one
    command to the next, for a TLS handshake, and for a session in all.

    In each ``content`` seconds of a message at least ``content * least_rate`` octets have to come.
    ``greet_wait`` is how long strangers wait for the greeting; those who do not are sent away.
    """

    greeting: float = 300.0  # RFC 5321 §4.5.3.2.7: at least five minutes for a command
    command: float = 300.0
    content: float = 180.0
    handshake: float = 30.0
    session: float = 7200.0
    least_rate: float = 100.0
    greet_wait: float = 0.0


PRESSED_TIMES = Times(greeting=15.0, command=30.0, content=30.0, handshake=10.0, session=900.0)
"""The same while half of the connections are in use; nobody gets more than without pressure."""


def pressed(times: Times) -> Times:
    """``times`` as they are under pressure."""
    less = {name: min(getattr(times, name), getattr(PRESSED_TIMES, name)) for name in _SHRINK}
    return replace(times, **less)


_SHRINK = ("greeting", "command", "content", "handshake", "session")


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """``total`` connections, ``by_client`` of one IPv4 address or IPv6 /64; networks in
    ``exempt`` are limited by ``total`` alone. 0 is no limit."""

    total: int = 0
    by_client: int = 0
    exempt: Sequence[IPv4Network | IPv6Network] = ()


def _unheard(*_: object) -> None:
    """Where nobody wants to know."""


class Connections:
    """Counts the connections of all listeners of a process, and with ``shared`` those of other workers.

    ``turned_away`` logs a refusal: protocol, address, reason; ``tightened`` that the limits have
    changed: whether they are tight now, connections, the most there may be.
    """

    def __init__(
        self,
        limits: ConnectionLimits = ConnectionLimits(),
        turned_away: Callable[[str, str, str], None] = _unheard,
        tightened: Callable[[bool, int, int], None] = _unheard,
        shared: SharedCounts | None = None,
    ) -> None:
        self.limits = limits
        self._shared = shared
        self._turned_away = turned_away
        self._tightened = tightened
        self.total = 0
        self.pressed = False
        self.factories: list[SessionFactory[Any]] = []
        self._by_client: dict[str, int] = {}
        self._said: dict[str, float] = {}

    def is_exempt(self, host: str) -> bool:
        """Whether ``host`` is in a network that the limits for strangers do not hold for."""
        return is_in(host, self.limits.exempt)

    def objection(self, host: str) -> str:
        """Why one more connection from ``host`` is too many; ``""`` when it is not."""
        limits = self.limits
        if limits.total and self._in_all >= limits.total:
            return "Too many connections"
        if limits.by_client and not self.is_exempt(host):
            most = max(limits.by_client // 4, 4) if self.pressed else limits.by_client
            network = client_network(host)
            here = self._by_client.get(network, 0)
            if here + (self._shared.connections(network) if self._shared else 0) >= most:
                return "Too many connections from your network"
        return ""

    @property
    def _in_all(self) -> int:
        return self.total + self._shared.all_connections() if self._shared else self.total

    def refused(self, protocol: str, host: str, why: str, now: float) -> None:
        """Log a refusal, unless the same network has just had one."""
        network = client_network(host)
        if now - self._said.get(network, -SAID_AGAIN_SECONDS) < SAID_AGAIN_SECONDS:
            return
        if len(self._said) >= MOST_SAID:
            self._said.clear()
        self._said[network] = now
        self._turned_away(protocol, host, why)

    def add(self, host: str) -> None:
        """A session has begun."""
        network = client_network(host)
        self._by_client[network] = self._by_client.get(network, 0) + 1
        self.total += 1
        if self._shared:
            self._shared.connected(network, 1)
        if not self.pressed and self.limits.total and self._in_all * 2 >= self.limits.total:
            self._press(True)

    def remove(self, host: str) -> None:
        """A session has ended."""
        network = client_network(host)
        left = self._by_client.get(network, 0) - 1
        if left > 0:
            self._by_client[network] = left
        else:
            self._by_client.pop(network, None)
        self.total -= 1
        if self._shared:
            self._shared.connected(network, -1)
        if self.pressed and self._in_all < self.limits.total * EASY_AGAIN:
            self._press(False)

    def _press(self, pressed: bool) -> None:
        self.pressed = pressed
        self._tightened(pressed, self._in_all, self.limits.total)
        for factory in self.factories:
            factory.hurry()


class SessionFactory(Factory, Generic[S]):
    """Makes, counts and ends the sessions of one listener.

    A subclass makes one in ``session_for``; that calls ``began`` when its connection is made and
    ``ended`` when it is lost.
    """

    noisy = False
    protocol_name = ""
    refusal = b"%s\r\n"
    """What somebody who is too many gets to read before the connection is closed."""

    def __init__(self, clock: IReactorTime, connections: Connections | None, silent: bool) -> None:
        self.sessions: set[S] = set()
        self.stopping = False
        self.connections = connections or Connections()
        self.connections.factories.append(self)
        self._clock = clock
        self._silent = silent
        self._all_ended: Deferred[None] | None = None

    def buildProtocol(self, addr: IAddress | None) -> Any:
        host = plain_host(getattr(addr, "host", "127.0.0.1"))
        if why := self.connections.objection(host):
            self.connections.refused(self.protocol_name, host, why, self._clock.seconds())
            # Where TLS comes first, a handshake to say so in would cost more than the session.
            return TurnedAway(b"" if self._silent else self.refusal % why.encode())
        return self.session_for(host, getattr(addr, "port", 0))

    def session_for(self, host: str, port: int) -> S:
        """A session for a client at ``host``."""
        raise NotImplementedError

    def began(self, session: S) -> None:
        """A session's connection is made."""
        self.sessions.add(session)
        self.connections.add(session.host)

    def ended(self, session: S) -> None:
        """A session's connection is gone."""
        if session in self.sessions:
            self.sessions.discard(session)
            self.connections.remove(session.host)
        self._tell_when_all_ended()

    def hurry(self) -> None:
        """The limits have tightened or loosened."""
        for session in tuple(self.sessions):
            session.hurry()

    def stop(self) -> Deferred[None]:
        """End every session when what it is at is answered, or after ``CLOSING_SECONDS`` at once."""
        self.stopping = True
        self._all_ended = Deferred()
        for session in tuple(self.sessions):
            session.stop()
        timer = self._clock.callLater(CLOSING_SECONDS, self._abort_all)

        def stopped(_: None) -> None:
            if timer.active():
                timer.cancel()

        self._tell_when_all_ended()
        return self._all_ended.addCallback(stopped)

    def _abort_all(self) -> None:
        for session in tuple(self.sessions):
            session.abort()

    def _tell_when_all_ended(self) -> None:
        waiting = self._all_ended
        if waiting is not None and not self.sessions and not waiting.called:
            waiting.callback(None)


class TurnedAway(TwistedProtocol):
    """Says why, if anything, and closes."""

    def __init__(self, words: bytes) -> None:
        self._words = words

    def connectionMade(self) -> None:
        transport: Any = self.transport
        if not self._words:
            transport.abortConnection()
            return
        transport.write(self._words)
        transport.loseConnection()


def is_in(host: str, networks: Sequence[IPv4Network | IPv6Network]) -> bool:
    """Whether an address is in one of ``networks``; what is no address is in none."""
    if not networks:
        return False
    address = address_of(host)
    return address is not None and any(address in network for network in networks)
