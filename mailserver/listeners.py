"""Listening sockets: bound while the process is privileged, or inherited; served once the rooms are open."""

from __future__ import annotations

import errno
import math
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from twisted.internet import tcp, unix
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    ILoggingContext,
    IOpenSSLContextFactory,
    IProtocol,
    IProtocolFactory,
)
from twisted.internet.protocol import Factory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from mailserver.config import Listen

NAMES = ("smtp", "submission", "submissions", "lmtp", "pop3", "pop3s")

BACKLOG = 1024
"""Connections that may wait to be accepted."""


GIVE_WAY_SECONDS = 0.002
"""How long a process that has taken more connections than others leaves a new one to them."""

IN_VAIN_SECONDS = 0.01
"""One that is ready so soon afterwards is taken for the one that was left to the others."""

ALONE_SECONDS = 0.05, 1.0
"""How long a process then leaves none to them; each time in a row twice as long as the time before."""


class StartFailed(Exception):
    """The server cannot start; the text is the one line that a person gets to see."""


class Share(Protocol):
    """``shared_counts.SharedCounts``: who takes how many of the new connections."""

    def took(self) -> None:
        """This process has taken one."""

    def is_busier(self) -> bool:
        """Whether it has taken clearly more of late than another."""


@implementer(ILoggingContext)
class Door(Factory):
    """Stands at a port from the moment that it is bound; what is behind it comes later.

    ``name`` is what Twisted's log calls it.
    """

    noisy = False

    def __init__(self, name: str) -> None:
        self.behind: IProtocolFactory | None = None
        self.share: Share | None = None
        self._name = name

    def logPrefix(self) -> str:
        """For lines like "listen.smtp starting on 25"."""
        return self._name

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:  # type: ignore[override]
        if self.share is not None:
            self.share.took()
        return None if self.behind is None else self.behind.buildProtocol(addr)


class InheritedUnixPort(unix.Port):
    """A port on a Unix socket that another process has bound.

    Twisted's own would change the mode of the socket's file, which may be root's.
    """

    def startListening(self) -> None:
        tcp.Port.startListening(self)


class InheritingReactor:
    """In the place of the reactor, for an endpoint: listens on a socket that another process has bound.

    So whatever a description says beside the place (``haproxy:`` for one) counts in every process.
    Owns the descriptor ``fd``.
    """

    def __init__(self, reactor: Any, fd: int) -> None:
        self._reactor = reactor
        self._fd = fd

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: IProtocolFactory, **_: object) -> IListeningPort:
        """Listen on the inherited socket, whatever ``port`` says."""
        os.set_blocking(self._fd, False)
        with socket.socket(fileno=self._fd) as inherited:
            adopted: IListeningPort = self._reactor.adoptStreamPort(
                inherited.fileno(), inherited.family, factory
            )
        return adopted

    def listenSSL(
        self, port: int, factory: IProtocolFactory, contextFactory: IOpenSSLContextFactory, **_: object
    ) -> IListeningPort:
        """Listen on the inherited socket, with TLS from the first byte."""
        return self.listenTCP(port, TLSMemoryBIOFactory(contextFactory, False, factory))

    def listenUNIX(self, address: bytes, factory: IProtocolFactory, **_: object) -> IListeningPort:
        """Listen on the inherited socket; ``address`` only tells its name."""
        port: Any = InheritedUnixPort(address, factory, reactor=self._reactor)
        os.set_blocking(self._fd, False)
        port._preexistingSocket = socket.socket(fileno=self._fd)  # as adoptStreamPort does
        port.startListening()
        adopted: IListeningPort = port
        return adopted


def _without_systemd(description: str) -> str:
    """systemd hands its sockets to one process; what inherits one from that process takes it as any other."""
    before, found, _ = description.partition("systemd:")
    return f"{before}tcp:0" if found else description


def _with_backlog(description: str) -> str:
    """Room for a crowd that connects at once, unless the administrator names another.

    Twisted's fifty are full in a moment; who comes then is not refused but tries again after seconds.
    """
    has_one = ":backlog=" in description or not description.startswith(("tcp:", "tcp6:", "unix:"))
    return description if has_one else f"{description}:backlog={BACKLOG}"


def _answer_at_once(port: Any) -> None:
    """Let no reply wait until the client has acknowledged what went before it, as RFC 896 has it.

    We write once for all that we have to say, so nothing is to be gathered; but OpenSSL sends something by
    itself at the end of each handshake, and the answer to the next command then came up to 40 ms later.
    Connections have this option from the socket that accepts them.
    """
    listening = getattr(port, "socket", None)
    if listening is not None and listening.family in (socket.AF_INET, socket.AF_INET6):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class Accepting:
    """How a port takes connections that other processes could take as well.

    One in each turn of the reactor: Twisted takes as many as there are, and of twenty that come at once one
    process would get all, and the others stand idle for as long as the sessions last. And while it has taken
    more than its ``share`` it leaves each to the others for a moment, unless that was in vain a short time
    ago: another process may hang, or be dead.
    """

    def __init__(self, port: Any, reactor: Any) -> None:
        self.share: Share | None = None
        self._port = port
        self._reactor = reactor
        self._accept = port.doRead
        self._resumed_at = -math.inf
        self._alone_until = -math.inf
        self._alone = 0.0
        port.doRead = self._ready

    def _ready(self) -> None:
        if self.share is None:
            self._take()
            return
        now = self._reactor.seconds()
        if now < self._resumed_at + IN_VAIN_SECONDS:
            self._alone = min(max(2 * self._alone, ALONE_SECONDS[0]), ALONE_SECONDS[1])
            self._alone_until = now + self._alone
        elif self._resumed_at > -math.inf:
            self._alone = 0.0  # somebody took what was left
        self._resumed_at = -math.inf
        if now >= self._alone_until and self.share.is_busier():
            self._port.stopReading()
            self._reactor.callLater(GIVE_WAY_SECONDS, self._resume)
            return
        self._take()

    def _take(self) -> None:
        self._port.numberAccepts = 1  # it grows by twenty whenever the last turn met the limit
        self._accept()

    def _resume(self) -> None:
        """Nobody else may have taken it: then it is ours, whoever has more."""
        if self._port.fileno() >= 0:
            self._resumed_at = self._reactor.seconds()
            self._port.startReading()


class Listener:
    """One entry of ``[listen]``: a name and a Twisted endpoint description.

    ``inherited`` is the descriptor of a socket that another process has bound for it.

    Raises:
        StartFailed: the description cannot be understood.
    """

    def __init__(self, reactor: Any, name: str, description: str, inherited: int | None = None) -> None:
        self.name = name
        self.door = Door(f"listen.{name}")
        self.port: IListeningPort | None = None
        self._reactor = reactor
        self._accepting: Accepting | None = None
        self._description = description
        self._is_inherited = inherited is not None
        if inherited is not None:
            reactor, description = InheritingReactor(reactor, inherited), _without_systemd(description)
        try:
            self._endpoint = serverFromString(reactor, _with_backlog(description))
        except IndexError:
            raise StartFailed(
                f'listen.{name} = "{description}": systemd has handed over no such socket; '
                "start the server by its .socket unit, or listen on a port of its own"
            ) from None
        except (ValueError, TypeError, KeyError) as error:
            raise StartFailed(
                f'listen.{name} = "{description}" is not an endpoint description ({error}); '
                'expected something like "tcp:25" or "tcp:25:interface=192.0.2.1"'
            ) from None

    def bind(self) -> None:
        """Bind now, while the process may use ports below 1024.

        Raises:
            StartFailed: the port is busy, forbidden or not there.
        """
        results: list[IListeningPort | Failure] = []
        maybeDeferred(self._endpoint.listen, self.door).addBoth(results.append)
        if not results:
            raise StartFailed(f'listen.{self.name} = "{self._description}" does not bind at once')
        if isinstance(results[0], Failure):
            raise StartFailed(self._why(results[0].value)) from None
        self.port = results[0]
        _answer_at_once(self.port)
        if self._is_inherited:
            self._accepting = Accepting(self.port, self._reactor)

    def _why(self, error: BaseException | None) -> str:
        where = f'cannot listen on listen.{self.name} = "{self._description}"'
        cause = error.socketError if isinstance(error, CannotListenError) else error
        reason = getattr(cause, "strerror", None) or str(cause)
        if isinstance(cause, PermissionError):
            return f"{where}: {reason}; start as root with --uid and --gid, or use a port above 1023"
        if isinstance(cause, socket.gaierror) or getattr(cause, "errno", 0) == errno.EADDRNOTAVAIL:
            return f"{where}: {reason}; name an address of this machine after interface="
        return f"{where}: {reason}; stop what uses the port, or name another in the configuration"

    def serve(self, factory: IProtocolFactory, share: Share | None = None) -> None:
        """Put ``factory`` behind the door; see ``Accepting`` for ``share``."""
        self.door.behind = factory
        if self._accepting is not None and share is not None:
            self._accepting.share = self.door.share = share

    @property
    def where(self) -> str:
        """Where it listens, for people."""
        assert self.port is not None
        address: Any = self.port.getHost()
        return f"{address.host}:{address.port}" if hasattr(address, "port") else str(address)

    def lend(self) -> int:
        """The socket's descriptor, for other processes; connections are theirs from now on.

        Raises:
            StartFailed: what listens is no socket.
        """
        port: Any = self.port
        if not hasattr(port, "socket"):
            raise StartFailed(
                f'listen.{self.name} = "{self._description}" cannot be shared by processes; set workers = 1'
            )
        port.stopReading()
        descriptor: int = port.fileno()
        return descriptor

    def leave(self) -> None:
        """Close this process's descriptor; whoever has another goes on listening."""
        port: Any = self.port
        self.port = None
        if port is not None:
            port.stopReading()
            port.socket.close()

    def retire(self) -> None:
        """Let go of what was lent, so that new connections are refused as soon as its borrowers let go
        too; a Unix socket keeps its file until ``close``."""
        if not isinstance(self.port, unix.Port):
            self.leave()

    def close(self) -> Deferred[object]:
        """Stop listening; connections that stand go on."""
        if self._is_inherited:
            # Twisted would remove a Unix socket's file, which the others still need.
            self.leave()
        port, self.port = self.port, None
        stop: Callable[[], object] = port.stopListening if port is not None else lambda: None
        return maybeDeferred(stop)


@dataclass(frozen=True)
class Place:
    """Where a process stands among its equals: worker ``number`` of ``count``, with the descriptors
    of the sockets that it inherits, by the names of their listeners; none where it binds them.
    ``path`` is the configuration's file, for SIGHUP."""

    number: int = 0
    count: int = 1
    sockets: Mapping[str, int] = field(default_factory=dict)
    path: Path | None = None


def make_listeners(listen: Listen, reactor: object, sockets: Mapping[str, int]) -> list[Listener]:
    """A listener for every entry that is not off; nothing is bound yet. ``sockets`` are inherited ones.

    Raises:
        StartFailed: one of the descriptions cannot be understood.
    """
    return [
        Listener(reactor, name, description, sockets.get(name))
        for name in NAMES
        if (description := getattr(listen, name))
    ]
