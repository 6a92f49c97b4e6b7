"""Against a program that is not ours: Postfix's smtp-sink (Debian's package ``postfix``)."""

import os
import re
import shutil
import socket
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater

from mailserver.interfaces import Exchange
from mailserver.values.content import FileContent, MemoryContent
from mailserver.values.outcome import Failed, Relayed
from tests.scratch import scratch_path

from .test_agent import AgentCase, entry

SINK = shutil.which("smtp-sink", path="/usr/sbin:/usr/libexec/postfix:" + os.environ.get("PATH", ""))


class _Sink(ProcessProtocol):
    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()

    def processEnded(self, reason: Any) -> None:
        self.ended.callback(None)


class SinkTests(AgentCase):
    if SINK is None:
        skip = "smtp-sink is not installed (Debian's package postfix has it)"

    async def sink(self, *options: str) -> Path:
        """Start one as b.test's exchange; what it takes goes to the folder returned."""
        folder = scratch_path(self).absolute()
        folder.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        assert SINK is not None
        command = [SINK, *options, "-d", "m.", f"127.0.0.1:{port}", "100"]
        if os.getuid() == 0:
            folder.chmod(0o777)
            command[1:1] = ["-u", "nobody"]
        process = _Sink()
        running = reactor.spawnProcess(process, SINK, command, path=str(folder), env=dict(os.environ))

        def stop() -> Deferred[None]:
            running.signalProcess("KILL")
            return process.ended

        self.addCleanup(stop)
        while not process.ended.called:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            await deferLater(reactor, 0.02, lambda: None)
        self.hosts["b.test"] = [Exchange("mx.b.test", port, ("127.0.0.1",))]
        return folder

    def taken(self, folder: Path) -> list[bytes]:
        """Contents as the sink stored them: LF, dots not stuffed, after its own header lines."""
        return [re.split(rb"\n(?=Subject:)", p.read_bytes(), maxsplit=1)[-1] for p in folder.glob("m.*")]

    async def test_a_hundred_messages(self) -> None:
        folder = await self.sink()
        body = b"Subject: x\r\n\r\n.dot\r\n..\r\n.\r\nend\r\n"
        sent = [self.attempt(entry("x@b.test", "y@b.test", content=MemoryContent(body))) for _ in range(100)]
        found = await gatherResults([Deferred.fromCoroutine(one) for one in sent])
        assert {type(o) for outcomes in found for o in outcomes} == {Relayed}
        taken = self.taken(folder)
        assert len([t for t in taken if b".dot" in t]) == 100
        assert {t.rstrip(b"\n") for t in taken if b".dot" in t} == {
            body.replace(b"\r\n", b"\n").rstrip(b"\n")
        }

    async def test_large_content(self) -> None:
        folder = await self.sink()
        octets = b"Subject: big\r\n\r\n" + b"".join(b".%d\r\n" % n for n in range(500_000))
        path = scratch_path(self)
        path.write_bytes(octets)
        outcome = await self.one(entry("x@b.test", content=FileContent(path, len(octets))))
        assert isinstance(outcome, Relayed)
        taken = [t for t in self.taken(folder) if t.startswith(b"Subject: big")]
        assert [t.rstrip(b"\n") for t in taken] == [octets.replace(b"\r\n", b"\n").rstrip(b"\n")]

    async def test_without_pipelining_and_with_refusals(self) -> None:
        await self.sink("-p")
        assert isinstance(await self.one(), Relayed)
        await self.sink("-r", "rcpt")
        await self.one()
        await self.sink("-f", "rcpt")
        assert isinstance(await self.one(), Failed)
