"""A socket in the state folder where the `mailserver` command asks the server: one JSON line each way.

A request is an object whose ``ask`` names the question; the answer is ``{"answer": …}`` or ``{"error":
"…"}``.  The socket's file mode is the only door: who may write it is the server's user or root.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from mailserver.control_client import short_name, socket_path
from mailserver.values.text import printable

log = Logger(namespace="mailserver")

REQUEST_OCTETS = 64 * 1024
IDLE_SECONDS = 60.0

Question = Callable[[Mapping[str, Any]], Any]
"""The request's fields -> what can be JSON, or a Deferred of it. ``ValueError`` is the asker's mistake."""


class Listener(Protocol):
    """The server's end of a connection that has become a stream of objects both ways."""

    def heard(self, message: Mapping[str, Any], /) -> None:
        """The other side has sent an object."""

    def gone(self) -> None:
        """The connection is lost."""


Stream = Callable[[Mapping[str, Any], Callable[[object], None]], Listener]
"""The request's fields and a way to send objects -> who hears the other side; raises as ``Question`` does."""


class ControlSession(LineOnlyReceiver):
    """One command's questions, answered in order."""

    delimiter = b"\n"
    MAX_LENGTH = REQUEST_OCTETS
    factory: ControlFactory

    _listener: Listener | None = None

    def connectionMade(self) -> None:
        self._alarm = self.factory.clock.callLater(IDLE_SECONDS, self._hang_up)

    def _hang_up(self) -> None:
        transport: Any = self.transport
        transport.abortConnection()

    def connectionLost(self, reason: Failure | None = None) -> None:
        if self._alarm.active():
            self._alarm.cancel()
        if self._listener is not None:
            self._listener.gone()

    def lineReceived(self, line: bytes) -> None:
        if self._listener is not None:
            self._hear(self._listener, line)
            return
        self._alarm.reset(IDLE_SECONDS)
        answering = maybeDeferred(self._answer, line)
        answering.addErrback(self._failed)
        answering.addCallback(self._send)

    def _hear(self, listener: Listener, line: bytes) -> None:
        try:
            message = json.loads(line)
        except ValueError:
            message = None
        if isinstance(message, dict):
            listener.heard(message)
        else:
            self._hang_up()

    def _begin_stream(self, begin: Stream, request: Mapping[str, Any]) -> dict[str, Any]:
        """From now on the connection may be silent as long as it likes."""
        self._listener = begin(request, self._send)
        self._alarm.cancel()
        return {"answer": os.getpid()}

    def _answer(self, line: bytes) -> Deferred[Any]:
        try:
            request = json.loads(line)
            if (stream := self.factory.streams.get(request["ask"])) is not None:
                return maybeDeferred(self._begin_stream, stream, request)
            question = self.factory.questions[request["ask"]]
        except (ValueError, TypeError, KeyError):
            raise ValueError("this server does not know the question") from None
        return maybeDeferred(question, request).addCallback(lambda answer: {"answer": answer})

    def _failed(self, failure: Failure) -> dict[str, str]:
        if not failure.check(ValueError):
            log.failure("answering a command", failure)
        return {"error": printable(str(failure.value) or type(failure.value).__name__)}

    def _send(self, answer: Any) -> None:
        if self.connected:
            self.sendLine(json.dumps(answer).encode())  # type: ignore[no-untyped-call]


class ControlFactory(Factory):
    """Makes sessions; ``questions`` may grow while the server starts."""

    protocol = ControlSession  # type: ignore[assignment]
    noisy = False

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.questions: dict[str, Question] = {"ping": lambda _: os.getpid()}
        self.streams: dict[str, Stream] = {}


class Control(Service):
    """Listens while the server runs."""

    name = "control"

    def __init__(self, reactor: Any, state: Path, worker: int = 0) -> None:
        self._reactor = reactor
        self._path = socket_path(state, worker)
        self._factory = ControlFactory(reactor)
        self._port: IListeningPort | None = None

    def answer(self, name: str, question: Question) -> None:
        """Answer ``name`` by calling ``question`` with the request."""
        self._factory.questions[name] = question

    def stream(self, name: str, begin: Stream) -> None:
        """Let ``name`` turn a connection into a stream; ``begin`` says who hears it."""
        self._factory.streams[name] = begin

    def startService(self) -> None:
        """Without the socket mail goes on: a line in the log, and no more."""
        super().startService()  # type: ignore[no-untyped-call]
        with suppress(FileNotFoundError, OSError):
            if self._path.is_socket():
                self._path.unlink()  # of a process that was killed; the spool's lock says that it is gone
        try:
            with short_name(self._path) as address:
                self._port = self._reactor.listenUNIX(address, self._factory, mode=0o600)
        except Exception as error:
            log.warn(
                "no commands can ask this server: {path}: {error}", path=str(self._path), error=str(error)
            )

    def stopService(self) -> Deferred[None] | None:
        super().stopService()  # type: ignore[no-untyped-call]
        port, self._port = self._port, None
        if port is None:
            return None
        closed: Deferred[Any] = maybeDeferred(port.stopListening)

        def unlink(result: object) -> None:
            with suppress(OSError):
                self._path.unlink()

        return closed.addBoth(unlink)
