"""Real commands through the MDA's pipe: their outcomes, their limits, and that none holds up others."""

import os
import signal
import sys
import time
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from zope.interface.verify import verifyObject

from mailserver.deliver.command import CommandAgent
from mailserver.deliver.running import Limits, end_leftovers
from mailserver.deliver.turns import Room, Turns
from mailserver.interfaces import IDeliveryAgent
from mailserver.values.address import Address
from mailserver.values.content import FileContent, MemoryContent
from mailserver.values.envelope import Entry, Envelope, Recipient, Waiting
from mailserver.values.outcome import Delayed, Delivered, Failed, Outcome
from tests.scratch import scratch_path

HELLO = b"Subject: x\r\nReturn-Path: <old@b.test>\r\n\r\nHello\r\n.\r\n"
ADA = Address("ada", "example.test")


def entry_of(*recipients: Recipient, content: object = None, sender: str = "bob") -> Entry:
    envelope = Envelope(Address(sender, "b.test"), recipients)
    waiting = tuple(Waiting(one) for one in recipients)
    return Entry(77, 5.5, envelope, waiting, content or MemoryContent(HELLO))  # type: ignore[arg-type]


def people(count: int) -> list[Recipient]:
    return [
        Recipient(n, Address(f"u{n}", "example.test"), Address(f"u{n}", "example.test")) for n in range(count)
    ]


class CommandCase(TestCase):
    def setUp(self) -> None:
        self.folder = scratch_path(self)
        self.folder.mkdir()

    def agent(
        self, code: str, seconds: float = 30.0, octets: int = 100_000, at_once: int = 4, waiting: int = 50
    ) -> CommandAgent:
        script = self.folder / "command.py"
        script.write_text(code)
        words = [sys.executable, str(script.absolute()), "an argument; $HOME"]
        turns = Turns(at_once, waiting, Room(1000))
        return CommandAgent(reactor, words, Limits(seconds, octets), turns, f"test-{os.getpid()}")

    async def outcome(self, agent: CommandAgent, **of: object) -> Outcome:
        one = Recipient(0, ADA, ADA)
        (outcome,) = await agent.attempt(entry_of(one, **of), [one])  # type: ignore[arg-type]
        assert outcome.recipient is one
        return outcome

    def test_it_provides_the_interface(self) -> None:
        assert verifyObject(IDeliveryAgent, self.agent(""))

    async def test_what_a_command_gets(self) -> None:
        code = (
            "import json, os, sys\n"
            f"json.dump([sys.stdin.read(), sys.argv[1:], dict(os.environ), os.getpgrp() == os.getpid(),"
            " sorted(os.listdir('/proc/self/fd'))],"
            f" open({str(self.folder.absolute() / 'got')!r}, 'w'))"
        )
        outcome = await self.outcome(self.agent(code), sender="$(touch x)|;")
        assert isinstance(outcome, Delivered), outcome
        import json

        said, arguments, environment, own_group, descriptors = json.loads((self.folder / "got").read_text())
        assert said == (
            'Return-Path: <"$(touch x)|;"@b.test>\nDelivered-To: ada@example.test\nSubject: x\n\nHello\n.\n'
        )
        assert arguments == ["an argument; $HOME"]
        environment.pop("LC_CTYPE", None)  # Python's own
        assert set(environment) == {"PATH", "LANG", "MAILSERVER_COMMAND"}
        assert own_group
        assert len(descriptors) <= 5, (
            "0, 1, 2, the file and the folder that it reads: nothing of the server's"
        )

    async def test_exit_statuses(self) -> None:
        kinds = {0: Delivered, 65: Failed, 67: Failed, 69: Failed, 77: Failed}
        kinds |= dict.fromkeys((1, 64, 70, 75, 78, 126, 127), Delayed)
        for status, kind in kinds.items():
            outcome = await self.outcome(self.agent(f"print('because\\nmore'); raise SystemExit({status})"))
            assert isinstance(outcome, kind), (status, outcome)
            assert status == 0 or outcome.diagnostic.endswith(f"it ended with status {status}: because")

    async def test_signals_and_missing_programs_are_a_delay(self) -> None:
        killed = await self.outcome(self.agent("import os; os.kill(os.getpid(), 9)"))
        assert isinstance(killed, Delayed)
        assert "signal 9" in killed.diagnostic
        missing = self.agent("")
        missing._words = ["/no/such/program"]
        gone = await self.outcome(missing)
        assert isinstance(gone, Delayed), gone

    async def test_a_command_that_hangs_is_ended_with_all_that_it_started(self) -> None:
        pids = self.folder / "pids"
        code = (
            "import subprocess, time, os\n"
            "child = subprocess.Popen(['sleep', '600'])\n"
            f"open({str(pids.absolute())!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
            "time.sleep(600)"
        )
        outcome = await self.outcome(self.agent(code, seconds=1.5))
        assert isinstance(outcome, Delayed)
        assert "longer than 1.5 seconds" in outcome.diagnostic
        for pid in map(int, pids.read_text().split()):
            for _ in range(100):
                if not is_running(pid):
                    break
                await deferLater(reactor, 0.05)
            assert not is_running(pid)

    async def test_a_command_that_floods_is_ended(self) -> None:
        outcome = await self.outcome(self.agent("while True: print('x' * 10000)", octets=50_000))
        assert isinstance(outcome, Delayed)
        assert "wrote more than 50000 octets" in outcome.diagnostic

    async def test_who_leaves_a_child_with_the_pipes_is_not_waited_for(self) -> None:
        code = "import subprocess; subprocess.Popen(['sleep', '20'])"
        began = time.monotonic()
        assert isinstance(await self.outcome(self.agent(code)), Delivered)
        assert time.monotonic() - began < 15

    async def test_a_large_message_goes_through_and_may_be_left_unread(self) -> None:
        path = self.folder / "large"
        path.write_bytes(b"Subject: x\r\n\r\n" + b"0123456789abcde\r\n" * 100_000)
        content = FileContent(path, path.stat().st_size)
        counted = self.agent(
            "import sys; sys.exit(0 if sys.stdin.buffer.read().count(b'\\n') == 100004 else 1)"
        )
        assert isinstance(await self.outcome(counted, content=content), Delivered)
        assert isinstance(await self.outcome(self.agent("pass"), content=content), Delivered)
        assert isinstance(await self.outcome(self.agent("raise SystemExit(75)"), content=content), Delayed)

    async def test_turns(self) -> None:
        log = self.folder / "log"
        code = (
            f"import os, time; f = os.open({str(log.absolute())!r}, os.O_APPEND | os.O_CREAT | os.O_WRONLY)\n"
            "os.write(f, b'+'); time.sleep(0.1); os.write(f, b'-')"
        )
        agent = self.agent(code, at_once=2, waiting=3)
        all_ = people(7)
        outcomes = await agent.attempt(entry_of(*all_), all_)
        assert [type(one) for one in outcomes] == [Delivered] * 5 + [Delayed] * 2
        assert outcomes[-1].status == "4.3.2"
        running = most = 0
        for step in log.read_text():
            running += 1 if step == "+" else -1
            most = max(most, running)
        assert most <= 2

    async def test_a_stopping_server_ends_what_runs(self) -> None:
        agent = self.agent("import time; time.sleep(600)", at_once=1)
        all_ = people(3)
        waiting: Deferred[object] = agent.attempt(entry_of(*all_), all_)
        await deferLater(reactor, 0.2)
        agent.stop()
        outcomes = await waiting
        assert [type(one) for one in outcomes] == [Delayed] * 3  # type: ignore[attr-defined]

    async def test_what_a_killed_server_left_is_found_and_ended(self) -> None:
        mark = f"leftover-{os.getpid()}"
        pid = os.spawnve(os.P_NOWAIT, "/bin/sleep", ["sleep", "600"], {"MAILSERVER_COMMAND": mark})
        other = os.spawnve(os.P_NOWAIT, "/bin/sleep", ["sleep", "600"], {"MAILSERVER_COMMAND": f"{mark}1"})
        try:
            await deferLater(reactor, 0.2)
            assert end_leftovers(mark) == 1
            assert os.waitpid(pid, 0)[1] == signal.SIGKILL
            assert is_running(other)
        finally:
            os.kill(other, signal.SIGKILL)
            os.waitpid(other, 0)

    async def test_a_loop_is_found(self) -> None:
        content = MemoryContent(b"Delivered-To: ADA@example.test\r\n\r\nx\r\n")
        outcome = await self.outcome(self.agent("raise SystemExit(1)"), content=content)
        assert isinstance(outcome, Failed)
        assert outcome.status == "5.4.6"


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
