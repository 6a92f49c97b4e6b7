"""What a full queue costs: memory while it waits, and how soon a restart after kill -9 takes it over.

``python -m benchmarks.waiting [--messages 50000] [--recipients 1]`` fills a spool with messages of 4 KiB that
were under way when the server was killed, to a next hop that nobody listens at, starts the server, and tells
when it serves, when the first attempt is recorded, and its memory while everything that has room is tried.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import cpu_seconds, memory
from benchmarks.peers import free_port
from mailserver.durable import Disk
from mailserver.spool.sqlite import SqliteSpool
from mailserver.values.address import Address
from mailserver.values.envelope import Envelope, Recipient

TOML = """hostname = "mx.bench.test"
domains = ["bench.test"]
[listen]
smtp = "tcp:{smtp}:interface=127.0.0.1"
submission = ""
submissions = ""
pop3 = ""
pop3s = ""
[relay]
trusted_networks = ["127.0.0.1"]
[relay.routes]
"*" = "smtp://127.0.0.1:{hop}"
"""


class Figures:
    """``serves`` and ``first`` in seconds since the start of the process, ``processor`` those that it has
    used when it serves; ``memory`` in octets, the highest seen; ``waiting`` recipients at the end."""

    def __init__(self) -> None:
        self.serves = self.first = self.processor = 0.0
        self.memory = 0
        self.waiting = 0


def fill(folder: Path, messages: int, recipients: int, octets: int = 4096, wait: float = 0.0) -> None:
    """Messages that are leased to nobody who lives, or that wait for ``wait`` seconds."""
    spool = SqliteSpool(folder, Disk())
    spool.start()
    line = b"x" * 70 + b"\r\n"
    body = b"Subject: waiting\r\n\r\n" + line * (octets // len(line))
    sender = Address("ada", "bench.test")
    futures = []
    for n in range(messages):
        writer = spool.begin()
        writer.write(body)
        names = [Address(f"u{m}", f"d{n % 300}.test") for m in range(recipients)]
        who = tuple(Recipient(m, one, one) for m, one in enumerate(names))
        release_at = time.time() + wait if wait else 0.0
        futures.append(writer.commit(Envelope(sender, who, release_at=release_at)))
        if len(futures) == 500:
            for future in futures:
                future.result(60)
            futures.clear()
    for future in futures:
        future.result(60)
    spool.stop()


def measure(folder: Path, messages: int, recipients: int, seconds: float) -> Figures:
    """Start a server on ``folder`` and watch it for ``seconds``. Raises ``RuntimeError`` when it ends."""
    ports = {"smtp": free_port(), "hop": free_port()}
    (folder / "mailserver.toml").write_text(TOML.format(**ports))
    fill(folder / "state" / "spool", messages, recipients)
    figures, began = Figures(), time.monotonic()
    with (folder / "log").open("wb") as log:
        command = [str(Path(sys.executable).parent / "twistd"), "-n", "--pidfile=", "mailserver"]
        server = subprocess.Popen(
            [*command, "--config", "mailserver.toml"],
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        while time.monotonic() - began < (figures.first or 60.0) + seconds:
            if server.poll() is not None:
                raise RuntimeError(f"the server ended: {(folder / 'log').read_text()[-2000:]}")
            if not figures.serves and _serves(ports["smtp"]):
                figures.serves = time.monotonic() - began
                figures.processor = cpu_seconds(server.pid)
            if figures.serves and not figures.first and b"status=deferred" in (folder / "log").read_bytes():
                figures.first = time.monotonic() - began
            figures.memory = max(figures.memory, memory(server.pid))
            time.sleep(0.05 if not figures.first else 0.5)
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    figures.waiting = _waiting(folder / "state" / "spool")
    return figures


def _serves(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as session:
            return session.recv(3) == b"220"
    except OSError:
        return False


def _waiting(folder: Path) -> int:
    with sqlite3.connect(folder / "spool-0.sqlite") as db:
        return int(db.execute("SELECT count(*) FROM recipient").fetchone()[0])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=50_000)
    parser.add_argument("--recipients", type=int, default=1)
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="how long it is watched after the first attempt"
    )
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="waiting-"))
    try:
        figures = measure(folder, given.messages, given.recipients, given.seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(
        f"{given.messages} messages to {given.recipients} recipients each; {figures.waiting} wait at the end"
    )
    print(f"serves after {figures.serves:.2f} s ({figures.processor:.2f} s of processor time)")
    print(f"first attempt recorded after {figures.first:.2f} s")
    print(f"memory, highest: {figures.memory / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
