"""Asking the running server over its control socket: the side of the `mailserver` command."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ANSWER_OCTETS = 16 * 1024 * 1024
PATIENCE = 60.0
"""Seconds that a command waits for an answer: some of them ask other servers."""


class NoServer(Exception):
    """Nobody answers: the server does not run, or is another version."""


class Refused(Exception):
    """The server's own words on why there is no answer."""


def socket_path(state: Path, worker: int = 0) -> Path:
    """Where one worker process listens."""
    return state / f"control-{worker}"


def workers(state: Path) -> list[int]:
    """The numbers of the processes that have a socket there, of which some may have been killed."""
    names = [path.name.removeprefix("control-") for path in state.glob("control-*")]
    return sorted(int(name) for name in names if name.isdecimal())


def ask(state: Path, name: str, worker: int = 0, patience: float = PATIENCE, **fields: Any) -> Any:
    """Put one question to a running server. Blocks.

    Raises:
        NoServer: nobody answers.
        Refused: the server says why it has no answer.
    """
    path = socket_path(state, worker)
    line = json.dumps({"ask": name, **fields}).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX) as asking, short_name(path) as address:
            asking.settimeout(patience)
            asking.connect(address)
            asking.sendall(line)
            answer = _line_from(asking)
    except OSError as error:
        raise NoServer(f"{path}: {error.strerror or error}") from None
    try:
        told = json.loads(answer)
    except ValueError:
        raise NoServer(f"{path}: the server hung up") from None
    if "error" in told:
        raise Refused(str(told["error"]))
    return told["answer"]


def _line_from(asking: socket.socket) -> bytes:
    pieces: list[bytes] = []
    octets = 0
    while octets < ANSWER_OCTETS and (piece := asking.recv(65536)):
        pieces.append(piece)
        octets += len(piece)
        if piece.endswith(b"\n"):
            break
    return b"".join(pieces)


@contextmanager
def short_name(path: Path) -> Iterator[str]:
    """A name of ``path`` that fits into a socket's address, which holds about a hundred octets."""
    if len(os.fsencode(path)) < 100 or not Path("/proc/self/fd").exists():
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
