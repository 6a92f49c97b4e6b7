"""Relaying beside Postfix: from the first connection until the last message is at its next hop.

``python -m benchmarks.relay --help`` tells the options.  Two loads: one destination, Postfix's own
``smtp-sink``; and 300 destinations (300 addresses of loopback) that take 50 ms for each answer.  Both
servers promise the same at their 250, run in turn, and have Debian's or our defaults.  The clock runs from
the first connection until the next hop has the last message, so it measures taking in, keeping and sending
together; ``--workers 2`` is what a machine with two processors would be given, for Postfix uses them all.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.local_delivery import WARM, Lost, Round, summarize
from benchmarks.measure import Meter
from benchmarks.peers import OurServer, PeerFailed, PeerMissing, Postfix, find_program, free_port
from benchmarks.places import fresh

ARRIVAL_SECONDS = 300.0
DESTINATIONS = 300
ANSWER_SECONDS = 0.05
SENDERS = 20


@dataclass(frozen=True, slots=True)
class Load:
    """``messages`` of ``length`` octets to ``destinations`` domains."""

    messages: int
    length: int
    destinations: int


# -- next hops -------------------------------------------------------------------------------------


class SmtpSink:
    """Postfix's own sink, which counts what it gets."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._out = folder / "sink.out"
        self._program = find_program("smtp-sink", "postfix")

    def start(self) -> None:
        with self._out.open("wb") as out:
            command = [self._program, "-u", "nobody", "-c", f"inet:127.0.0.1:{self.port}", "1000"]
            self._process = subprocess.Popen(command, stdout=out)

    def count(self) -> int:
        """Messages so far."""
        found = re.findall(rb"mesg=(\d+)", self._out.read_bytes()[-200:])
        return int(found[-1]) if found else 0

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


class SlowSink:
    """300 destinations in one process: any address of 127/8, every answer 50 ms after the one before."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._count = multiprocessing.Value("i", 0, lock=False)

    def start(self) -> None:
        self._process = multiprocessing.Process(
            target=_serve_slowly, args=(self.port, self._count), daemon=True
        )
        self._process.start()

    def count(self) -> int:
        """Messages so far."""
        return int(self._count.value)

    def stop(self) -> None:
        self._process.terminate()
        self._process.join()


class _SlowSession(asyncio.Protocol):
    """Bare, so that it takes little of the processor that the two servers are compared on."""

    def __init__(self, count: Any) -> None:
        self._count = count
        self._octets = b""
        self._in_content = False
        self._free_at = 0.0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._clock = asyncio.get_running_loop()
        self._say(b"220 slow.test ESMTP\r\n")

    def data_received(self, data: bytes) -> None:
        self._octets += data
        while True:
            end = b"\r\n.\r\n" if self._in_content else b"\r\n"
            whole, found, rest = self._octets.partition(end)
            if not found:
                return
            self._octets = rest
            if self._in_content:
                self._in_content = False
                self._count.value += 1
                self._say(b"250 2.0.0 ok\r\n")
            else:
                self._command(whole[:4].upper())

    def _command(self, verb: bytes) -> None:
        if verb == b"QUIT":
            # It may come behind the final dot, whose answer has still to leave.
            self._clock.call_at(self._free_at + 0.001, self._transport.close)
            return
        self._in_content = verb == b"DATA"
        others = {
            b"DATA": b"354 go\r\n",
            b"EHLO": b"250-slow.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n",
        }
        self._say(others.get(verb, b"250 ok\r\n"))

    def _say(self, reply: bytes) -> None:
        self._free_at = max(self._free_at, self._clock.time()) + ANSWER_SECONDS
        self._clock.call_at(self._free_at, self._transport.write, reply)


def _serve_slowly(port: int, count: Any) -> None:
    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _SlowSession(count), "0.0.0.0", port, backlog=1000)
        await server.serve_forever()

    asyncio.run(serve())


def _address(number: int) -> str:
    return f"127.1.{number // 250}.{number % 250 + 1}"


# -- senders ---------------------------------------------------------------------------------------


def send(port: int, load: Load) -> None:
    """The whole load over ``SENDERS`` connections at once; by smtp-source where it can."""
    if load.destinations > 1:
        asyncio.run(_send_to_many(port, load))
        return
    command = [find_program("smtp-source", "postfix"), "-d", "-s", str(SENDERS), "-l", str(load.length)]
    command += ["-m", str(load.messages), "-f", "s@bench.test", "-t", "u@d0.test", f"inet:127.0.0.1:{port}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


class _Sender(asyncio.Protocol):
    """One connection: message after message, MAIL, RCPT and DATA in one write."""

    def __init__(self, load: Load, numbers: Iterator[int], done: asyncio.Future[None]) -> None:
        self._load, self._numbers, self._done = load, numbers, done
        line = b"x" * 62 + b"\r\n"
        self._content = b"Subject: x\r\n\r\n" + line * (load.length // len(line)) + b".\r\n"
        self._octets = b""
        self._left: list[tuple[bytes, bytes]] = [(b"220", b"EHLO bench.test\r\n"), (b"250", b"")]

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self._octets = (self._octets + data).split(b"\r\n")
        for line in lines:
            if line[3:4] != b"-":
                self._answered(line)

    def _answered(self, line: bytes) -> None:
        code, say = self._left.pop(0)
        if not line.startswith(code) and not self._done.done():
            self._done.set_exception(PeerFailed(f"expected {code.decode()}, got {line!r}"))
        if say:
            self._transport.write(say)
        if not self._left:
            self._next()

    def _next(self) -> None:
        number = next(self._numbers, None)
        if number is None:
            self._transport.write(b"QUIT\r\n")
            self._left = [(b"221", b"")]
            if not self._done.done():
                self._done.set_result(None)
            return
        domain = f"d{number % self._load.destinations}.test"
        commands = f"MAIL FROM:<s@bench.test>\r\nRCPT TO:<u{number}@{domain}>\r\nDATA\r\n"
        self._transport.write(commands.encode())
        self._left = [(b"250", b""), (b"250", b""), (b"354", self._content), (b"250", b"")]

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(PeerFailed(f"the server hung up: {error}"))


async def _send_to_many(port: int, load: Load) -> None:
    loop = asyncio.get_running_loop()
    numbers = iter(range(load.messages))
    waiting = [loop.create_future() for _ in range(SENDERS)]
    for done in waiting:
        await loop.create_connection(partial(_Sender, load, numbers, done), "127.0.0.1", port)
    await asyncio.gather(*waiting)


# -- the two servers -------------------------------------------------------------------------------


class RelayingPostfix(Postfix):
    """Postfix that sends everything to the sink."""

    def __init__(self, folder: Path, sink_port: int, load: Load) -> None:
        super().__init__(folder)
        self._sink_port, self._load = sink_port, load

    def _write_configuration(self) -> None:
        super()._write_configuration()
        if self._load.destinations == 1:
            setting = f"relayhost = [127.0.0.1]:{self._sink_port}"
        else:
            setting = f"transport_maps = texthash:{self._configuration}/transport"
            routes = [
                f"d{n}.test smtp:[{_address(n)}]:{self._sink_port}\n" for n in range(self._load.destinations)
            ]
            (self._configuration / "transport").write_text("".join(routes))
        with (self._configuration / "main.cf").open("a") as main:
            main.write(f"{setting}\n")


class OurRelay(OurServer):
    """This server, with routes to the sink."""

    def __init__(self, folder: Path, sink_port: int, load: Load, workers: int = 1) -> None:
        super().__init__(folder, workers)
        self._sink_port, self._load = sink_port, load

    def _extra(self) -> str:
        lines = ['[relay]\ntrusted_networks = ["127.0.0.0/8"]\n[relay.routes]']
        if self._load.destinations == 1:
            lines.append(f'"*" = "smtp://127.0.0.1:{self._sink_port}"')
        else:
            for n in range(self._load.destinations):
                lines.append(f'"d{n}.test" = "smtp://{_address(n)}:{self._sink_port}"')
        return "\n".join(lines) + "\n"


def _wait_for_last(sink: SmtpSink | SlowSink, messages: int) -> None:
    end = time.monotonic() + ARRIVAL_SECONDS
    while (there := sink.count()) < messages:
        if time.monotonic() > end:
            raise Lost(f"{messages - there} of {messages} did not arrive")
        time.sleep(0.01)


def run_round(make: Callable[[Path, int, Load], Any], load: Load, folder: Path) -> tuple[str, Round]:
    """One fresh server, warmed, and one load: from the first connection to the last message."""
    sink: SmtpSink | SlowSink = SmtpSink(folder) if load.destinations == 1 else SlowSink(folder)
    sink.start()
    try:
        peer = make(folder, sink.port, load)
        peer.start()
        try:
            send(peer.port, replace(load, messages=WARM))
            _wait_for_last(sink, WARM)
            with Meter(peer.pid) as meter:
                began = time.monotonic()
                send(peer.port, load)
                _wait_for_last(sink, WARM + load.messages)
                ended = time.monotonic()
            return peer.name, Round(ended - began, load.messages, meter.cost)
        finally:
            peer.stop()
    finally:
        sink.stop()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relay", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--messages", type=int, default=3000)
    parser.add_argument("--length", type=int, default=4096, help="octets of a message")
    parser.add_argument("--load", choices=["one", "many"], help="only one destination, or only many")
    parser.add_argument(
        "--workers",
        type=int,
        nargs="+",
        default=[1],
        help="our processes; may be several numbers",
    )
    parser.add_argument("--only", choices=["postfix", "ours"], help="leave out the other")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on the disk to measure")
    options = parser.parse_args()
    ours = [partial(OurRelay, workers=workers) for workers in options.workers]
    makers: list[Callable[[Path, int, Load], Any]] = [] if options.only == "ours" else [RelayingPostfix]
    if options.only != "postfix":
        makers += ours
    try:
        for name, destinations in (("one", 1), ("many", DESTINATIONS)):
            if options.load not in (None, name):
                continue
            load = Load(options.messages, options.length, destinations)
            print(
                f"\n{load.messages} messages of {load.length} octets to {destinations} destination(s)",
                flush=True,
            )
            results: dict[str, list[Round]] = {}
            for _ in range(options.rounds):
                for make in makers:
                    place = fresh(options.folder)
                    os.sync()  # nobody pays for what the one before left unwritten
                    peer, result = run_round(make, load, place)
                    results.setdefault(peer, []).append(result)
                    print(
                        f"{peer:24s} {result.rate:7.0f} messages/s  {result.cost.cpu:6.2f} s of processor",
                        flush=True,
                    )
            summarize(results)
    except (PeerMissing, PeerFailed, Lost) as error:
        print(f"relay: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
