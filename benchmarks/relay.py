"""Relaying beside Postfix: from the first connection until the last message is at its next hop.

``python -m benchmarks.relay --help`` tells the options.  Two loads: one destination, Postfix's own
``smtp-sink``; and 300 destinations (300 addresses of loopback) that take 50 ms for each answer.  Both
servers promise the same at their 250, run in turn, and have Debian's or our defaults.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.local_delivery import Lost, Round, summarize
from benchmarks.measure import Meter
from benchmarks.peers import OurServer, PeerFailed, PeerMissing, Postfix, find_program, free_port

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
    """300 destinations in one process: any address of 127/8, every answer after 50 ms."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._count = multiprocessing.Value("i", 0)

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


def _serve_slowly(port: int, count: Any) -> None:
    async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def say(reply: bytes) -> None:
            await asyncio.sleep(ANSWER_SECONDS)
            writer.write(reply)

        try:
            await say(b"220 slow.test ESMTP\r\n")
            while line := await reader.readline():
                verb = line[:4].upper()
                if verb == b"EHLO":
                    await say(b"250-slow.test\r\n250-PIPELINING\r\n250 8BITMIME\r\n")
                elif verb == b"DATA":
                    await say(b"354 go\r\n")
                    await reader.readuntil(b"\r\n.\r\n")
                    count.value += 1
                    await say(b"250 2.0.0 ok\r\n")
                elif verb == b"QUIT":
                    writer.write(b"221 bye\r\n")
                    break
                else:
                    await say(b"250 ok\r\n")
        except (OSError, asyncio.IncompleteReadError):
            pass
        writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(session, "0.0.0.0", port, limit=2**20, backlog=1000)
        await server.serve_forever()

    asyncio.run(serve())


def _address(number: int) -> str:
    return f"127.1.{number // 250}.{number % 250 + 1}"


# -- senders ---------------------------------------------------------------------------------------


def send(port: int, load: Load) -> None:
    """The whole load over ``SENDERS`` connections at once; by smtp-source where it can."""
    if load.destinations == 1:
        command = [find_program("smtp-source", "postfix"), "-d", "-s", str(SENDERS), "-l", str(load.length)]
        command += [
            "-m",
            str(load.messages),
            "-f",
            "s@bench.test",
            "-t",
            "u@d0.test",
            f"inet:127.0.0.1:{port}",
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return
    threads = [threading.Thread(target=_send_some, args=(port, load, n)) for n in range(SENDERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _send_some(port: int, load: Load, first: int) -> None:
    line = b"x" * 62 + b"\r\n"
    content = b"Subject: x\r\n\r\n" + line * (load.length // len(line)) + b".\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        answers = connection.makefile("rb")

        def expect(code: bytes) -> None:
            while (answer := answers.readline())[3:4] == b"-":
                pass
            if not answer.startswith(code):
                raise PeerFailed(f"expected {code.decode()}, got {answer!r}")

        expect(b"220")
        connection.sendall(b"EHLO bench.test\r\n")
        expect(b"250")
        for number in range(first, load.messages, SENDERS):
            domain = f"d{number % load.destinations}.test"
            connection.sendall(
                f"MAIL FROM:<s@bench.test>\r\nRCPT TO:<u{number}@{domain}>\r\nDATA\r\n".encode()
            )
            for code in (b"250", b"250", b"354"):
                expect(code)
            connection.sendall(content)
            expect(b"250")
        connection.sendall(b"QUIT\r\n")


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

    def __init__(self, folder: Path, sink_port: int, load: Load) -> None:
        super().__init__(folder, 1)
        self._sink_port, self._load = sink_port, load

    def _extra(self) -> str:
        lines = ['[relay]\ntrusted_networks = ["127.0.0.0/8"]\n[relay.routes]']
        if self._load.destinations == 1:
            lines.append(f'"*" = "smtp://127.0.0.1:{self._sink_port}"')
        else:
            for n in range(self._load.destinations):
                lines.append(f'"d{n}.test" = "smtp://{_address(n)}:{self._sink_port}"')
        return "\n".join(lines) + "\n"


def run_round(make: Callable[[Path, int, Load], Any], load: Load, folder: Path) -> tuple[str, Round]:
    """One server, one load, from nothing to the last message."""
    sink: SmtpSink | SlowSink = SmtpSink(folder) if load.destinations == 1 else SlowSink(folder)
    sink.start()
    try:
        peer = make(folder, sink.port, load)
        peer.start()
        try:
            with Meter(peer.pid) as meter:
                began = time.monotonic()
                send(peer.port, load)
                while (there := sink.count()) < load.messages:
                    if time.monotonic() - began > ARRIVAL_SECONDS:
                        raise Lost(
                            f"{load.messages - there} of {load.messages} did not arrive from {peer.name}"
                        )
                    time.sleep(0.01)
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
    parser.add_argument("--only", choices=["postfix", "ours"], help="leave out the other")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on the disk to measure")
    options = parser.parse_args()
    makers = [
        m for m, name in ((RelayingPostfix, "postfix"), (OurRelay, "ours")) if options.only in (None, name)
    ]
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
                    with tempfile.TemporaryDirectory(prefix="mailserver-relay-", dir=options.folder) as place:
                        os.sync()  # nobody pays for what the one before left unwritten
                        peer, result = run_round(make, load, Path(place))
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
