"""Starts worker processes, starts again those that die, and ends them all."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import ProcessExitedAlready, ProcessTerminated
from twisted.internet.process import reapAllProcesses
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

log = Logger(namespace="mailserver")

INPUT, OUTPUT, ERRORS, REPORT = range(4)
FIRST_SOCKET = 4
"""Descriptors of a worker: its task and then nothing until the end of its parent; log lines; what it
has to say about its start; and from here on the listening sockets."""

READY = b"ready"
"""What a worker reports when it serves; anything else is why it does not."""

PAUSES = (1.0, 2.0, 5.0, 15.0, 60.0)
"""Seconds before a worker that died is started again, the last for every further death in a row."""

STEADY_SECONDS = 60.0
"""A worker that has served so long has died for a reason of its own: its deaths are counted anew."""

LONGEST_LINE = 64 * 1024

_TURN_SECONDS = 0.1


class WorkerFailed(Exception):
    """A worker does not serve; the text says why."""


class WorkerProcess(ProcessProtocol):
    """One life of one worker. ``task`` is what it gets to read; ``say`` takes whole lines of its log.

    ``begun`` fires when it serves, or fails with ``WorkerFailed``; ``ended`` fires with how it ended.
    """

    def __init__(self, number: int, task: bytes, say: Callable[[bytes], object]) -> None:
        self.number = number
        self.begun: Deferred[None] = Deferred()
        self.ended: Deferred[str] = Deferred()
        self._task = task
        self._say = say
        self._report = b""
        self._unsaid = {OUTPUT: b"", ERRORS: b""}
        self._is_to_read_again = False

    def connectionMade(self) -> None:
        self._process.writeToChild(INPUT, self._task)

    @property
    def _process(self) -> Any:
        return self.transport

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        if childFD == REPORT:
            self._report += data
            return
        lines, newline, rest = (self._unsaid[childFD] + data).rpartition(b"\n")
        if len(rest) > LONGEST_LINE:
            lines, newline, rest = lines + newline + rest, b"\n", b""
        self._unsaid[childFD] = rest
        if newline:
            self._say(lines + newline)

    def childConnectionLost(self, childFD: int) -> None:
        if childFD == REPORT:
            self._reported()
        elif rest := self._unsaid.get(childFD):
            self._unsaid[childFD] = b""
            self._say(rest + b"\n")

    def _reported(self) -> None:
        if self._report == READY:
            self.begun.callback(None)
            if self._is_to_read_again:
                self.signal("HUP")
        else:
            text = self._report.decode(errors="replace")
            self.begun.errback(
                WorkerFailed(text or f"worker {self.number} ended before it served; see the log")
            )

    def processEnded(self, reason: Failure) -> None:
        self.ended.callback(_how(reason.value))

    def not_started(self, error: OSError) -> None:
        """There was no making the process."""
        why = error.strerror or str(error)
        self.begun.errback(WorkerFailed(f"worker {self.number} cannot be started: {why}"))
        self.ended.callback(f"before it was there: {why}")

    def terminate(self) -> None:
        """Ask it to end as soon as its sessions allow. Harmless when it has ended."""
        self.signal("TERM")

    def signal(self, name: str) -> None:
        """Send a signal, ``"HUP"`` for example. Harmless when it has ended.

        SIGHUP waits until it serves: before it can hear it, it would die of it."""
        if name == "HUP" and not self.begun.called:
            self._is_to_read_again = True
            return
        try:
            self._process.signalProcess(name)
        except ProcessExitedAlready:
            pass


def _how(error: BaseException | None) -> str:
    if isinstance(error, ProcessTerminated):
        return f"by signal {error.signal}" if error.signal else f"with exit status {error.exitCode}"
    return "by itself"


class Supervisor:
    """``count`` processes that run ``module``, numbered from 0, each with the ``sockets`` of this one.

    ``task`` gives what a worker reads from its standard input; afterwards the input stays open, so
    that its end tells a worker that nobody looks after it any more.
    """

    def __init__(
        self,
        reactor: Any,
        module: str,
        count: int,
        task: Callable[[int], bytes],
        say: Callable[[bytes], object],
    ) -> None:
        self._reactor = reactor
        self._module = module
        self._count = count
        self._task = task
        self._say = say
        self._running = False
        self._sockets: Sequence[int] = ()
        self._living: dict[int, WorkerProcess] = {}
        self._pauses: dict[int, Any] = {}
        self._deaths: dict[int, int] = {}

    # -- the start -------------------------------------------------------------------------

    def start(self, sockets: Sequence[int]) -> None:
        """Start all workers on ``sockets`` (descriptors); they serve when this returns.

        Worker 0 comes first and alone, so what is made once is made by one: tables, a certificate.
        For twistd a start that returns has succeeded, and its reactor does not run yet; so this
        turns it.

        Raises:
            WorkerFailed: one of them does not serve; the others are ended.
        """
        self._sockets = sockets
        self._running = True
        try:
            self._begin(range(1))
            self._begin(range(1, self._count))
        except WorkerFailed:
            self._turn_until(self.stop())
            raise

    def _begin(self, numbers: Iterable[int]) -> None:
        begun = [self._spawn(number).begun for number in numbers]
        failures: list[Failure] = []
        for one in begun:
            one.addErrback(failures.append)
        self._turn_until(DeferredList(begun))
        if failures:
            failures[0].raiseException()

    def _turn_until(self, done: Deferred[Any]) -> None:
        while not done.called:
            self._reactor.iterate(_TURN_SECONDS)
            reapAllProcesses()  # SIGCHLD is not heard yet

    def _spawn(self, number: int) -> WorkerProcess:
        worker = WorkerProcess(number, self._task(number), self._say)
        self._living[number] = worker
        worker.ended.addCallback(self._ended, number, self._reactor.seconds())
        descriptors: dict[int, str | int] = {INPUT: "w", OUTPUT: "r", ERRORS: "r", REPORT: "r"}
        descriptors |= {FIRST_SOCKET + n: fd for n, fd in enumerate(self._sockets)}
        # The last argument is for those who look at a list of processes.
        command = [sys.executable, "-P", "-m", self._module, f"{number}/{self._count}"]
        try:
            self._reactor.spawnProcess(
                worker, sys.executable, command, env=_environment(), childFDs=descriptors
            )
        except OSError as error:
            worker.not_started(error)
        return worker

    # -- deaths ----------------------------------------------------------------------------

    def _ended(self, how: str, number: int, since: float) -> None:
        del self._living[number]
        if not self._running:
            return
        now = self._reactor.seconds()
        deaths = 0 if now - since >= STEADY_SECONDS else self._deaths.get(number, 0)
        self._deaths[number] = deaths + 1
        pause = PAUSES[min(deaths, len(PAUSES) - 1)]
        log.error(
            "worker {number} ended {how}; it is started again in {pause:.0f} s",
            number=number,
            how=how,
            pause=pause,
        )
        self._pauses[number] = self._reactor.callLater(pause, self._start_again, number)

    def _start_again(self, number: int) -> None:
        del self._pauses[number]
        begun = self._spawn(number).begun
        begun.addCallbacks(
            lambda _: log.info("worker {number} serves again", number=number),
            lambda failure: log.error("{why}", why=failure.getErrorMessage()),
        )

    def signal(self, name: str) -> None:
        """Send a signal (``"HUP"``) to all that live."""
        for worker in self._living.values():
            worker.signal(name)

    # -- the end ---------------------------------------------------------------------------

    def stop(self) -> Deferred[Any]:
        """Ask all workers to end; done when they have."""
        self._running = False
        for pause in self._pauses.values():
            pause.cancel()
        self._pauses.clear()
        living = list(self._living.values())
        for worker in living:
            worker.terminate()
        return DeferredList([worker.ended for worker in living])


def _environment() -> Mapping[str, str]:
    """Ours, and the same places to import from, wherever this program was started."""
    places = [os.path.abspath(place) for place in sys.path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
