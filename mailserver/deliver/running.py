"""One run of a command: a process group of its own, fed through a pipe, with limits of time and output."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessTerminated
from twisted.internet.interfaces import IPullProducer
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

MARK = "MAILSERVER_COMMAND"
"""In the environment of every command, so that a server that was killed finds what it has left running."""

_PATH = "/usr/local/bin:/usr/bin:/bin"
_LAST_WORDS_SECONDS = 1.0
_SHOWN_OCTETS = 4096
_SET_GROUP = "import os, sys; os.setsid(); os.execv(sys.argv[1], sys.argv[1:])"


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one run: ``seconds`` of time and ``octets`` of output on both descriptors."""

    seconds: float
    octets: int


@dataclass(frozen=True, slots=True)
class Ended:
    """``code`` is the exit status, or ``None`` for a run that was killed; ``why`` says by what; ``said`` is
    the beginning of what it wrote."""

    code: int | None
    why: str
    said: bytes


@implementer(IPullProducer)
class Run(ProcessProtocol):
    """A command under way. ``ended`` fires with ``Ended`` and never fails."""

    transport: Any

    def __init__(self, reactor: Any, content: Iterator[bytes], limits: Limits) -> None:
        self.ended: Deferred[Ended] = Deferred()
        self._reactor = reactor
        self._content = content
        self._limits = limits
        self._said = b""
        self._octets = 0
        self._killed = ""
        self._result: Ended | None = None
        self._timer = reactor.callLater(limits.seconds, self._too_long)

    def start(self, words: Sequence[str], mark: str) -> None:
        """Begin. Raises ``OSError`` when there is no process to be had."""
        command = _own_group(words)
        environment = {"PATH": _PATH, "LANG": "C.UTF-8", MARK: mark}
        try:
            self._reactor.spawnProcess(self, command[0], command, env=environment)
        except BaseException:
            self._timer.cancel()
            raise

    def kill(self, why: str) -> None:
        """End the whole group, and whatever it has started, now."""
        self._killed = self._killed or why
        pid = self.transport.pid if self.transport is not None else None
        if pid is None:
            return
        for end in (os.killpg, os.kill):  # just begun, it may not have a group of its own yet
            try:
                end(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            return

    # -- what Twisted calls ------------------------------------------------------------------------

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, False)

    def resumeProducing(self) -> None:
        try:
            piece = next(self._content, None)
        except OSError as error:
            self.kill(f"the message cannot be read: {error.strerror}")
            return
        if piece is not None:
            self.transport.write(piece)
        else:
            self.transport.unregisterProducer()
            self.transport.closeStdin()

    def stopProducing(self) -> None:
        """The command does not want to read any more; its exit status says what that means."""

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self._octets += len(data)
        self._said += data[: max(0, _SHOWN_OCTETS - len(self._said))]
        if self._octets > self._limits.octets and not self._killed:
            self.kill(f"it wrote more than {self._limits.octets} octets")

    def processExited(self, reason: Failure) -> None:
        code = getattr(reason.value, "exitCode", None)
        by_signal = reason.check(ProcessTerminated) and getattr(reason.value, "signal", None)
        why = self._killed or (f"it ended by signal {by_signal}" if by_signal else "")
        self._result = Ended(None if why else code or 0, why, b"")
        # What it started may keep the pipes open for ever; what it said itself is here in a moment.
        if self._timer.active():
            self._timer.reset(_LAST_WORDS_SECONDS)
        else:
            self._timer = self._reactor.callLater(_LAST_WORDS_SECONDS, self._too_long)

    def processEnded(self, reason: Failure) -> None:
        self._end()

    def _too_long(self) -> None:
        if self._result is None:
            self.kill(f"it took longer than {self._limits.seconds:g} seconds")
        else:
            self.transport.loseConnection()
            self._end()

    def _end(self) -> None:
        if self._timer.active():
            self._timer.cancel()
        if not self.ended.called:
            result = self._result or Ended(None, self._killed or "it vanished", b"")
            self.ended.callback(Ended(result.code, result.why, self._said))


def _own_group(words: Sequence[str]) -> list[str]:
    """The command, begun in a session and process group of its own."""
    setsid = shutil.which("setsid", path=_PATH)
    return [setsid, *words] if setsid else [sys.executable, "-Ec", _SET_GROUP, *words]


def end_leftovers(mark: str, processes: Path = Path("/proc")) -> int:
    """Kill what a server that was killed has left running under ``mark``; how many processes. What the
    commands were given is still in the spool, and comes again."""
    wanted = f"{MARK}={mark}".encode()
    ended = 0
    for folder in processes.glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)
                ended += 1
        except OSError:
            continue  # it has gone, or is somebody else's
    return ended
