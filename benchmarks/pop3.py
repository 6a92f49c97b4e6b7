"""POP3 beside Dovecot: log-ins a second, messages a second, and the opening of a large maildrop.

``python -m benchmarks.pop3 --help`` tells the options.  Both servers read Maildirs of the same files on
the same file system, take the same password in clear on loopback, and are run in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Protocol

from benchmarks.measure import Cost, Meter
from benchmarks.peers import (
    DOMAIN,
    USER,
    OurServer,
    PeerFailed,
    PeerMissing,
    _Daemon,
    find_program,
    free_port,
)
from benchmarks.places import fresh

PASSWORD = "a password for the benchmark only"
LOGIN = f"{USER}@{DOMAIN}"
MESSAGE = b"From: a@bench.test\nSubject: message\n\n" + (b"x" * 71 + b"\n") * 56
SMALL = 50
SETTLE_SECONDS = 2.5
"""Neither server trusts what it remembers of a folder that was changed in this moment."""
TIMEOUT_SECONDS = 120
FAILED = ord("-")
TOGETHER = 10
"""Commands that a client sends at once, as mpop does."""
TURNS = 10
"""How often the servers take turns in one round."""


class Reader(Protocol):
    """A POP3 server over ``mail``, the Maildir of one user."""

    name: str
    port: int
    mail: Path
    pid: int

    def start(self) -> None: ...
    def stop(self) -> None: ...


class Dovecot:
    """Debian's Dovecot with its defaults, one user, POP3 in clear."""

    def __init__(self, folder: Path) -> None:
        version = subprocess.run(
            [find_program("dovecot", "dovecot-pop3d"), "--version"],
            check=True,
            capture_output=True,
            text=True,
        )
        self.name = f"Dovecot {version.stdout.split()[0]}"
        self.port, self.pid = free_port(), 0
        self.mail = folder / "mail"
        self._folder = folder
        command = [find_program("dovecot", "dovecot-pop3d"), "-F", "-c", str(folder / "dovecot.conf")]
        self._daemon = _Daemon(command, folder, self.port, b"+OK")

    def start(self) -> None:
        if os.geteuid() != 0:
            raise PeerMissing("Dovecot starts as root only; run the benchmark as root")
        self._folder.chmod(0o755)
        owner = pwd.getpwnam("mail")
        (self._folder / "users").write_text(f"{LOGIN}:{{PLAIN}}{PASSWORD}\n")
        (self._folder / "dovecot.conf").write_text(
            f"protocols = pop3\nbase_dir = {self._folder}/run\nstate_dir = {self._folder}/state\n"
            f"log_path = {self._folder}/dovecot.log\nssl = no\ndisable_plaintext_auth = no\n"
            f"mail_location = maildir:{self.mail}\nfirst_valid_uid = 1\nlisten = 127.0.0.1\n"
            f"mail_uid = {owner.pw_uid}\nmail_gid = {owner.pw_gid}\n"
            f"service pop3-login {{\n  inet_listener pop3 {{\n    port = {self.port}\n  }}\n"
            "  inet_listener pop3s {\n    port = 0\n  }\n}\n"
            f"passdb {{\n  driver = passwd-file\n  args = {self._folder}/users\n}}\n"
            f"userdb {{\n  driver = static\n  args = home={self._folder}\n}}\n"
        )
        for path in (self.mail, *self.mail.rglob("*")):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        self.pid = self._daemon.start()

    def stop(self) -> None:
        self._daemon.stop()


class Ours:
    """This server, with one process."""

    def __init__(self, folder: Path, workers: int = 1) -> None:
        self.name = f"mailserver, workers = {workers}"
        self.port, self.pid = free_port(), 0
        self.mail = folder / "maildirs" / DOMAIN / USER
        self._folder = folder
        self._configuration = folder / "mailserver.toml"
        self._workers = workers
        command = [OurServer._program("twistd"), "-n", "--pidfile=", "mailserver"]
        self._daemon = _Daemon([*command, "--config", str(self._configuration)], folder, self.port, b"+OK")

    def start(self) -> None:
        self._configuration.write_text(
            f'hostname = "mx.{DOMAIN}"\ndomains = ["{DOMAIN}"]\nworkers = {self._workers}\n'
            f'[listen]\npop3 = "tcp:{self.port}:interface=127.0.0.1"\n'
            'smtp = ""\nsubmission = ""\nsubmissions = ""\npop3s = ""\n[login]\nallow_cleartext = true\n'
        )
        command = [OurServer._program("mailserver"), "--config", str(self._configuration)]
        subprocess.run(
            [*command, "user", "add", LOGIN, "--password-stdin"],
            input=PASSWORD + "\n",
            text=True,
            check=True,
            cwd=self._folder,
            capture_output=True,
        )
        self.pid = self._daemon.start()

    def stop(self) -> None:
        self._daemon.stop()


# -- the client --------------------------------------------------------------------------------


class Client:
    """As little of a POP3 client as measures the server and not itself.

    The socket blocks without Python's own timeout, which would ask ``poll`` before each call, and what comes
    goes into a buffer that is there.
    """

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", TIMEOUT_SECONDS, 0))
        self._buffer = bytearray(256 * 1024)
        self._wait(b"\r\n")

    def _wait(self, end: bytes) -> None:
        """Read until ``end``."""
        buffer, length = self._buffer, len(end)
        there = kept = 0
        while there < length or buffer[there - length : there] != end:
            if there == len(buffer):  # a long list: its last octets are enough
                buffer[:length] = buffer[-length:]
                there = length
            count = self._socket.recv_into(memoryview(buffer)[there:] if there else buffer)
            if not count:
                raise PeerFailed(f"the connection was closed: {bytes(buffer[:there])[-200:]!r}")
            there, kept = there + count, kept + count
            if kept == there and buffer[0] == FAILED:
                raise PeerFailed(bytes(buffer[: min(there, 200)]).decode())

    def line(self, command: str) -> None:
        """Send a command, wait for the line that answers it."""
        self._socket.send(command.encode() + b"\r\n")
        self._wait(b"\r\n")

    def lines(self, command: str) -> None:
        """Send a command whose response ends with a dot, wait for all of it."""
        self.send(command.encode() + b"\r\n")

    def send(self, octets: bytes) -> None:
        """The same for the octets of a command."""
        self._socket.send(octets)
        self._wait(b"\r\n.\r\n")

    def pipeline(self, commands: bytes, responses: int) -> None:
        """Send several commands at once (RFC 2449 §6.6), wait for as many responses that end with a dot."""
        self._socket.sendall(commands)
        last, buffer = b"", self._buffer
        while responses > 0:
            count = self._socket.recv_into(buffer)
            if not count:
                raise PeerFailed(f"the connection was closed after {last!r}")
            octets = last + buffer[:count]
            if octets[0] == FAILED or b"\n-ERR" in octets:  # which no message of ours has in it
                raise PeerFailed(f"a command was refused: {bytes(octets[:200])!r}")
            responses -= octets.count(b"\r\n.\r\n")
            last = octets[-4:]  # may be the beginning of an end or of a refusal, and never a whole one

    def log_in(self) -> None:
        self.line(f"USER {LOGIN}")
        self.line(f"PASS {PASSWORD}")

    def close(self) -> None:
        self.line("QUIT")
        self._socket.close()


def session(port: int) -> None:
    """Log in, STAT, UIDL, QUIT."""
    client = Client(port)
    client.log_in()
    client.line("STAT")
    client.lines("UIDL")
    client.close()


# -- what is measured --------------------------------------------------------------------------


def fill(mail: Path, messages: int) -> None:
    """A Maildir of ``messages`` files, named as this server and Dovecot name theirs."""
    for folder in ("new", "cur", "tmp"):
        (mail / folder).mkdir(parents=True)
    size, sent = len(MESSAGE), len(MESSAGE) + MESSAGE.count(b"\n")
    for n in range(messages):
        name = f"{1_700_000_000 + n}.M{n % 1000000}P1.bench,S={size},W={sent}:2,S"
        (mail / "cur" / name).write_bytes(MESSAGE if messages <= 1000 else b"")
        if messages > 1000:
            os.truncate(mail / "cur" / name, size)


def sessions_a_second(port: int, count: int) -> float:
    """One session after another: the maildrop has one lock."""
    session(port)
    began = time.perf_counter()
    for _ in range(count):
        session(port)
    return count / (time.perf_counter() - began)


def messages_a_second(port: int, count: int) -> float:
    """RETR of 4 KiB, one after the other, in one session."""
    client = Client(port)
    client.log_in()
    client.lines("RETR 1")
    commands = _retrievals()
    began = time.perf_counter()
    for n in range(count):
        client.send(commands[n % SMALL])
    seconds = time.perf_counter() - began
    client.close()
    return count / seconds


def pipelined_a_second(port: int, count: int) -> float:
    """The same with ``TOGETHER`` commands on their way at a time."""
    client = Client(port)
    client.log_in()
    client.lines("RETR 1")
    commands = _retrievals()
    groups = [b"".join(commands[begin : begin + TOGETHER]) for begin in range(0, SMALL, TOGETHER)]
    began = time.perf_counter()
    for n in range(count // TOGETHER):
        client.pipeline(groups[n % len(groups)], TOGETHER)
    seconds = time.perf_counter() - began
    client.close()
    return count // TOGETHER * TOGETHER / seconds


def _retrievals() -> list[bytes]:
    return [b"RETR %d\r\n" % number for number in range(1, SMALL + 1)]


def opening_seconds(port: int) -> float:
    """From the password to the end of UIDL."""
    client = Client(port)
    began = time.perf_counter()
    client.log_in()
    client.line("STAT")
    client.lines("UIDL")
    seconds = time.perf_counter() - began
    client.close()
    return seconds


def longest_wait(port: int, stop: Path) -> float:
    """The longest that a CAPA of another session takes until ``stop`` is there, in seconds.

    Runs in a process of its own, for the client that reads the large list keeps Python to itself.
    """
    client, longest = Client(port), 0.0
    while not stop.exists():
        time.sleep(0.002)
        began = time.perf_counter()
        client.lines("CAPA")
        longest = max(longest, time.perf_counter() - began)
    client.close()
    return longest


def small(
    makers: Sequence[Callable[[Path], Reader]], folder: Path, sessions: int, retrievals: int
) -> dict[str, dict[str, float]]:
    """Sessions and messages a second over ``SMALL`` messages: medians of short turns.

    All servers run, and only the one whose turn it is has something to do: so what else the machine is
    at meets all of them alike.
    """
    with ExitStack() as stack:
        peers = [_started(make, folder, SMALL, stack) for make in makers]
        turns: dict[str, dict[str, list[float]]] = {peer.name: {} for peer in peers}
        for _ in range(TURNS):
            for peer in peers:
                rates = turns[peer.name]
                rates.setdefault("sessions/s", []).append(sessions_a_second(peer.port, sessions // TURNS))
                rates.setdefault("RETR/s", []).append(messages_a_second(peer.port, retrievals // TURNS))
                rates.setdefault("RETR/s, ten at once", []).append(
                    pipelined_a_second(peer.port, retrievals // TURNS)
                )
        return {name: {what: median(them) for what, them in rates.items()} for name, rates in turns.items()}


def _started(make: Callable[[Path], Reader], folder: Path, messages: int, stack: ExitStack) -> Reader:
    """A server over a Maildir of ``messages``, which ends with ``stack``."""
    place = fresh(folder)
    peer = make(place)
    fill(peer.mail, messages)
    peer.start()
    stack.callback(peer.stop)
    return peer


def large(make: Callable[[Path], Reader], folder: Path, messages: int) -> dict[str, float]:
    """Seconds of the first and the second opening of ``messages``, and what they cost."""
    with ExitStack() as stack:
        peer = _started(make, folder, messages, stack)
        time.sleep(SETTLE_SECONDS)
        with Meter(peer.pid) as meter, ProcessPoolExecutor(1) as others:
            times, waits = [], []
            for _ in range(2):
                stop = peer.mail.parent / "stop"
                stop.unlink(missing_ok=True)
                waiting = others.submit(longest_wait, peer.port, stop)
                time.sleep(0.3)
                times.append(opening_seconds(peer.port))
                stop.touch()
                waits.append(waiting.result())
        cost: Cost = meter.cost
        return {
            "first opening s": times[0],
            "second opening s": times[1],
            "another's wait, first ms": waits[0] * 1000,
            "another's wait, second ms": waits[1] * 1000,
            "memory MiB": cost.memory / 2**20,
        }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pop3", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=300)
    parser.add_argument("--retrievals", type=int, default=5000)
    parser.add_argument("--messages", type=int, default=50_000, help="of the large maildrop; 0 leaves it out")
    parser.add_argument("--only", choices=["dovecot", "ours"], help="leave out the other")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on the disk to measure")
    parser.add_argument("--json", action="store_true", help="print the medians as JSON at the end")
    options = parser.parse_args()
    peers: list[Callable[[Path], Reader]] = []
    if options.only != "ours":
        peers.append(Dovecot)
    if options.only != "dovecot":
        peers.append(Ours)
    results: dict[str, dict[str, list[float]]] = {}
    try:
        for number in range(options.rounds):
            rates = small(peers, options.folder, options.sessions, options.retrievals)
            for make in peers:
                name = make(Path("/nonexistent")).name
                figures = rates[name]
                if options.messages:
                    figures |= large(make, options.folder, options.messages)
                for what, value in figures.items():
                    results.setdefault(name, {}).setdefault(what, []).append(value)
                told = "  ".join(f"{what} {value:.3g}" for what, value in figures.items())
                print(f"round {number + 1}  {name:24s} {told}", flush=True)
    except (PeerMissing, PeerFailed, BlockingIOError) as error:  # the last: no answer in time
        print(f"pop3: {error}", file=sys.stderr)
        return 1
    summarize({name: {w: median(v) for w, v in rows.items()} for name, rows in results.items()}, options.json)
    return 0


def summarize(medians: dict[str, dict[str, float]], as_json: bool) -> None:
    """Print the medians and, with two peers, the second's ratio to the first."""
    print()
    for what in next(iter(medians.values())):
        figures = [rows[what] for rows in medians.values()]
        ratio = f"   ratio {figures[1] / figures[0]:.2f}" if len(figures) == 2 and figures[0] else ""
        told = "   ".join(f"{name} {rows[what]:10.3f}" for name, rows in medians.items())
        print(f"median  {what:28s} {told}{ratio}")
    if as_json:
        print(json.dumps(medians))


if __name__ == "__main__":
    sys.exit(main())
