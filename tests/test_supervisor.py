"""Worker processes that begin, die, come back and end; the processes themselves are pretended."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from mailserver.supervisor import (
    ERRORS,
    FIRST_SOCKET,
    INPUT,
    OUTPUT,
    PAUSES,
    READY,
    REPORT,
    STEADY_SECONDS,
    Supervisor,
    WorkerFailed,
    WorkerProcess,
)


class Pretended:
    """A process that does what the test says; the transport of a ``WorkerProcess``."""

    def __init__(
        self, protocol: WorkerProcess, command: Sequence[str], descriptors: Mapping[int, Any]
    ) -> None:
        self.protocol = protocol
        self.command = command
        self.descriptors = descriptors
        self.read = b""
        self.signals: list[str] = []
        self.has_ended = False
        protocol.makeConnection(self)  # type: ignore[arg-type]

    def writeToChild(self, descriptor: int, octets: bytes) -> None:
        assert descriptor == INPUT
        self.read += octets

    def signalProcess(self, name: str) -> None:
        if self.has_ended:
            raise ProcessExitedAlready
        self.signals.append(name)

    def report(self, octets: bytes) -> None:
        self.protocol.childDataReceived(REPORT, octets)
        self.protocol.childConnectionLost(REPORT)

    def end(self, reason: BaseException | None = None) -> None:
        self.has_ended = True
        if not self.protocol.begun.called:
            self.protocol.childConnectionLost(REPORT)
        self.protocol.childConnectionLost(OUTPUT)
        self.protocol.childConnectionLost(ERRORS)
        self.protocol.processEnded(Failure(reason or ProcessDone(0)))


class Reactor(Clock):
    """Spawns pretended processes; each turn before it runs calls ``turn``."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[Pretended] = []
        self.fails: OSError | None = None
        self.turn: Callable[[], object] = self.everybody_is_ready

    def spawnProcess(
        self,
        protocol: WorkerProcess,
        executable: str,
        args: Sequence[str],
        env: Mapping[str, str],
        childFDs: Mapping[int, Any],
    ) -> None:
        if self.fails is not None:
            raise self.fails
        assert executable == args[0]
        self.processes.append(Pretended(protocol, args, childFDs))

    def iterate(self, seconds: float) -> None:
        self.turn()

    def everybody_is_ready(self) -> None:
        for process in self.processes:
            if not process.protocol.begun.called:
                process.report(READY)


class SupervisorTest(SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = Reactor()
        self.said: list[bytes] = []
        self.supervisor = Supervisor(self.reactor, "a.module", 3, lambda n: b"task %d" % n, self.said.append)

    @property
    def processes(self) -> list[Pretended]:
        return self.reactor.processes

    def start(self) -> None:
        self.supervisor.start([70, 71])

    # -- the start -------------------------------------------------------------------------

    def test_every_worker_gets_its_task_and_all_sockets(self) -> None:
        self.start()
        assert [p.read for p in self.processes] == [b"task 0", b"task 1", b"task 2"]
        for number, process in enumerate(self.processes):
            assert process.command == [sys.executable, "-P", "-m", "a.module", f"{number}/3"]
            sockets = {fd: to for fd, to in process.descriptors.items() if fd >= FIRST_SOCKET}
            assert sockets == {FIRST_SOCKET: 70, FIRST_SOCKET + 1: 71}

    def test_the_first_serves_before_the_others_begin(self) -> None:
        at_once: list[int] = []

        def turn() -> None:
            at_once.append(len(self.processes))
            self.reactor.everybody_is_ready()

        self.reactor.turn = turn
        self.start()
        assert at_once == [1, 3]

    def check_failed_start(self, what: Callable[[Pretended], object], says: str) -> None:
        """Worker 1 does ``what`` instead of serving; all must have been ended when the start fails."""

        def turn() -> None:
            for process in self.processes:
                if process.signals and not process.has_ended:
                    process.end()
                elif not process.protocol.begun.called:
                    what(process) if process.read == b"task 1" else process.report(READY)

        self.reactor.turn = turn
        with pytest.raises(WorkerFailed) as caught:
            self.start()
        assert says in str(caught.value)
        assert [p.has_ended for p in self.processes] == [True, True, True]
        assert self.reactor.getDelayedCalls() == []

    def test_a_worker_that_tells_why_it_fails_ends_the_start(self) -> None:
        self.check_failed_start(lambda process: process.report(b"the spool is locked"), "the spool is locked")

    def test_a_worker_that_dies_ends_the_start(self) -> None:
        self.check_failed_start(lambda process: process.end(ProcessTerminated(1)), "worker 1 ended before")

    def test_a_process_that_cannot_be_made_ends_the_start(self) -> None:
        self.reactor.fails = OSError(11, "Resource temporarily unavailable")
        with pytest.raises(WorkerFailed) as caught:
            self.start()
        assert "temporarily unavailable" in str(caught.value)

    # -- deaths ----------------------------------------------------------------------------

    def kill(self, process: Pretended) -> None:
        process.end(ProcessTerminated(signal=signal.SIGKILL))

    def test_one_that_dies_is_started_again_with_the_same_task(self) -> None:
        self.start()
        self.kill(self.processes[1])
        self.reactor.advance(PAUSES[0] / 2)
        assert len(self.processes) == 3
        self.reactor.advance(PAUSES[0])
        assert [p.read for p in self.processes[3:]] == [b"task 1"]
        assert [p.signals for p in self.processes] == [[], [], [], []]

    def test_the_pauses_grow_while_it_keeps_dying(self) -> None:
        self.start()
        for pause in (*PAUSES, PAUSES[-1]):
            self.kill(self.processes[-1])
            before = len(self.processes)
            self.reactor.advance(pause - 0.01)
            assert len(self.processes) == before
            self.reactor.advance(0.02)
            assert len(self.processes) == before + 1

    def test_a_life_that_was_long_enough_is_a_new_beginning(self) -> None:
        self.start()
        for _ in range(3):
            self.reactor.advance(STEADY_SECONDS + 1)
            before = len(self.processes)
            self.kill(self.processes[-1])
            self.reactor.advance(PAUSES[0] + 0.01)
            assert len(self.processes) == before + 1

    def test_a_process_that_cannot_be_made_again_is_tried_later(self) -> None:
        self.start()
        self.kill(self.processes[0])
        self.reactor.fails = OSError(12, "Cannot allocate memory")
        self.reactor.advance(PAUSES[0])
        self.reactor.fails = None
        self.reactor.advance(PAUSES[1])
        assert self.processes[-1].read == b"task 0"
        assert len(self.processes) == 4

    # -- the end ---------------------------------------------------------------------------

    def test_one_that_is_just_coming_back_hears_of_a_change_when_it_serves(self) -> None:
        self.start()
        self.processes[1].end(ProcessTerminated(signal=9))
        self.reactor.advance(PAUSES[0])
        self.supervisor.signal("HUP")
        back = self.processes[-1]
        assert [p.signals for p in self.processes] == [["HUP"], [], ["HUP"], []]
        back.report(READY)
        assert back.signals == ["HUP"]

    def test_the_end_waits_for_all(self) -> None:
        self.start()
        ended = self.supervisor.stop()
        assert [p.signals for p in self.processes] == [["TERM"], ["TERM"], ["TERM"]]
        for process in self.processes:
            self.assertNoResult(ended)
            process.end()
        self.successResultOf(ended)
        assert self.reactor.getDelayedCalls() == []

    def test_nobody_comes_back_after_the_end(self) -> None:
        self.start()
        self.kill(self.processes[2])
        ended = self.supervisor.stop()
        for process in self.processes[:2]:
            process.end()
        self.successResultOf(ended)
        self.reactor.advance(PAUSES[-1] * 2)
        assert len(self.processes) == 3

    def test_one_that_is_just_coming_back_is_ended_too(self) -> None:
        self.start()
        self.kill(self.processes[2])
        self.reactor.advance(PAUSES[0])
        ended = self.supervisor.stop()
        for process in (*self.processes[:2], self.processes[3]):
            assert process.signals == ["TERM"]
            process.end()
        self.successResultOf(ended)

    # -- their log -------------------------------------------------------------------------

    def test_lines_arrive_whole(self) -> None:
        self.start()
        one, other, _ = self.processes
        one.protocol.childDataReceived(OUTPUT, b"first\nsec")
        other.protocol.childDataReceived(OUTPUT, b"another\n")
        one.protocol.childDataReceived(ERRORS, b"a fault\n")
        one.protocol.childDataReceived(OUTPUT, b"ond\n")
        assert self.said == [b"first\n", b"another\n", b"a fault\n", b"second\n"]

    def test_last_words_without_an_end_of_line_are_said(self) -> None:
        self.start()
        self.processes[0].protocol.childDataReceived(ERRORS, b"Aborted")
        self.kill(self.processes[0])
        assert self.said == [b"Aborted\n"]

    def test_a_line_without_an_end_does_not_grow_for_ever(self) -> None:
        self.start()
        for _ in range(20):
            self.processes[0].protocol.childDataReceived(OUTPUT, b"x" * 8192)
        assert sum(map(len, self.said)) >= 2 * 64 * 1024
