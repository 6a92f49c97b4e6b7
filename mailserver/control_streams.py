"""Streams from all worker processes of a running server: the side of the `mailserver` command."""

from __future__ import annotations

import json
import selectors
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailserver.control_client import NoServer, Refused, short_name

LOOK_SECONDS = 2.0
"""How often new workers, and those that were started again, are looked for."""

ANSWER_SECONDS = 10.0
LONGEST_LINE = 4 * 1024 * 1024


@dataclass(frozen=True)
class Message:
    """One object from a worker."""

    body: dict[str, Any]
    _connection: Connection

    def reply(self, **fields: Any) -> None:
        """Send an object back; a worker that has gone away does not want it any more."""
        with suppress(OSError):
            self._connection.send(fields)


class Connection:
    """A stream from one worker; ``early`` is what came with the answer to the question.

    Raises:
        OSError: nobody listens there, or not any more.
        Refused: the worker says why not.
    """

    def __init__(self, path: Path, name: str, fields: dict[str, Any]) -> None:
        self.path = path
        self._buffer = b""
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            self.socket.settimeout(ANSWER_SECONDS)
            with short_name(path) as address:
                self.socket.connect(address)
            self.send({"ask": name, **fields})
            while not (begun := self.read()):
                pass
        except BaseException:
            self.socket.close()
            raise
        if "error" in begun[0]:
            self.socket.close()
            raise Refused(str(begun[0]["error"]))
        self.early = begun[1:]

    def send(self, fields: dict[str, Any]) -> None:
        """Send one object."""
        self.socket.sendall(json.dumps(fields).encode() + b"\n")

    def read(self) -> list[dict[str, Any]]:
        """The objects that are there now; waits for some octets.

        Raises:
            OSError: the worker has gone away, or makes no sense.
        """
        piece = self.socket.recv(65536)
        if not piece or len(self._buffer) > LONGEST_LINE:
            raise ConnectionResetError("the server hung up")
        *lines, self._buffer = (self._buffer + piece).split(b"\n")
        try:
            return [json.loads(line) for line in lines]
        except ValueError:
            raise ConnectionResetError("the server is another version") from None


class Streams:
    """The same stream from each worker of the server whose state folder is ``state``. Blocks."""

    def __init__(self, state: Path, name: str, **fields: Any) -> None:
        self._state = state
        self._name = name
        self._fields = fields
        self._selector = selectors.DefaultSelector()
        self._early: list[Message] = []

    def connect(self) -> None:
        """Ask all workers.

        Raises:
            NoServer: none of them answers.
            Refused: the server says why not.
        """
        self._look()
        if not self._selector.get_map():
            raise NoServer(f"{self._state / 'control-0'}: nobody listens there")

    def close(self) -> None:
        """End all streams."""
        for key in list(self._selector.get_map().values()):
            self._drop(key.data)
        self._selector.close()

    def messages(self) -> Iterator[Message]:
        """What the workers send, for ever; those that end are asked again when they are back.

        Raises:
            Refused: one that came back does not want us any more.
        """
        while True:
            early, self._early = self._early, []
            yield from early
            ready = self._selector.select(LOOK_SECONDS)
            for key, _ in ready:
                yield from self._from(key.data)
            if not ready:
                self._look()

    def _from(self, connection: Connection) -> Iterator[Message]:
        try:
            bodies = connection.read()
        except OSError:
            self._drop(connection)
            return
        yield from (Message(body, connection) for body in bodies)

    def _look(self) -> None:
        """Ask the workers that we have no stream from."""
        known = {key.data.path for key in self._selector.get_map().values()}
        for path in sorted(self._state.glob("control-*")):
            if path in known:
                continue
            with suppress(OSError):
                connection = Connection(path, self._name, self._fields)
                self._selector.register(connection.socket, selectors.EVENT_READ, connection)
                self._early += [Message(body, connection) for body in connection.early]

    def _drop(self, connection: Connection) -> None:
        self._selector.unregister(connection.socket)
        connection.socket.close()
