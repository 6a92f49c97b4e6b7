"""Listening sockets: bound while the process is privileged, served once the rooms are open."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort, IProtocol, IProtocolFactory
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure


class StartFailed(Exception):
    """The server cannot start; the text is the one line that a person gets to see."""


class Door(Factory):
    """Stands at a port from the moment that it is bound; what is behind it comes later."""

    noisy = False

    def __init__(self) -> None:
        self.behind: IProtocolFactory | None = None

    def buildProtocol(self, addr: IAddress) -> IProtocol | None:  # type: ignore[override]
        return None if self.behind is None else self.behind.buildProtocol(addr)


class Listener:
    """One entry of ``[listen]``: a name and a Twisted endpoint description.

    Raises:
        StartFailed: the description cannot be understood.
    """

    def __init__(self, reactor: object, name: str, description: str) -> None:
        self.name = name
        self.door = Door()
        self.port: IListeningPort | None = None
        self._description = description
        try:
            self._endpoint = serverFromString(reactor, description)
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

    def _why(self, error: BaseException | None) -> str:
        where = f'cannot listen on listen.{self.name} = "{self._description}"'
        cause = error.socketError if isinstance(error, CannotListenError) else error
        reason = getattr(cause, "strerror", None) or str(cause)
        if isinstance(cause, PermissionError):
            return f"{where}: {reason}; start as root with --uid and --gid, or use a port above 1023"
        return f"{where}: {reason}; stop what uses the port, or name another in the configuration"

    def serve(self, factory: IProtocolFactory) -> None:
        """Put ``factory`` behind the door."""
        self.door.behind = factory

    def close(self) -> Deferred[object]:
        """Stop listening; connections that stand go on."""
        port, self.port = self.port, None
        stop: Callable[[], object] = port.stopListening if port is not None else lambda: None
        return maybeDeferred(stop)
