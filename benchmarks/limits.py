"""What the parts below us allow by themselves, so that a figure can be told as a share of its limit.

``python -m benchmarks.limits`` measures five: SQLite committing messages in batches of twenty, a file system
taking new files with one sync for fifty, the same with files of 1 MiB that are synced one by one, OpenSSL
answering TLS handshakes, and Twisted's protocol answering lines with no disk and no mail behind it.  Nobody
can be faster than these with the same promise, the same file system and the same library.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import os
import socket
import sqlite3
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from OpenSSL import SSL
from twisted.internet import protocol
from twisted.internet.epollreactor import EPollReactor

from benchmarks.idle import _certificate
from benchmarks.peers import free_port
from benchmarks.places import fresh

OCTETS = b"Subject: limit\r\n\r\n" + (b"x" * 70 + b"\r\n") * 56
COMMITS, IN_A_COMMIT = 300, 20
SYNCS, IN_A_SYNC = 60, 50
LARGE, TOGETHER, HANDSHAKES = 200, 5, 200
OWN_SYNC_OCTETS = 256 * 1024
"""What is longer is synced by itself: a sync of the file system would wait for what others still write."""
SESSIONS, TURNS, LINES = 20, 400, 5
"""A client that waits for each answer needs five for a message: MAIL, RCPT, DATA, the dot, and one spare."""


@dataclass(frozen=True, slots=True)
class Limit:
    """``rate`` in messages a second."""

    name: str
    rate: float


def sqlite_commits(folder: Path) -> float:
    """Messages a second that SQLite commits, ``synchronous=FULL``, and forgets again."""
    db = sqlite3.connect(fresh(folder) / "limit.sqlite", isolation_level=None)
    db.executescript(
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE m (id INTEGER PRIMARY KEY, o)"
    )
    began = time.perf_counter()
    for turn in range(COMMITS):
        numbers = range(turn * IN_A_COMMIT, (turn + 1) * IN_A_COMMIT)
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT INTO m VALUES (?, ?)", [(number, OCTETS) for number in numbers])
        db.execute("DELETE FROM m WHERE id < ?", (numbers[0],))
        db.execute("COMMIT")
    seconds = time.perf_counter() - began
    db.close()
    return COMMITS * IN_A_COMMIT / seconds


def synced_files(folder: Path) -> float:
    """Files a second that are written, renamed and covered by a sync of the file system for each fifty."""
    return files_alone([mailbox(fresh(folder) / "mailbox")], OCTETS, SYNCS * IN_A_SYNC, IN_A_SYNC)


def large_files(folder: Path) -> float:
    """Files of 1 MiB a second, each synced, five on their way to the disk at a time."""
    octets = OCTETS * (2**20 // len(OCTETS))
    return files_alone([mailbox(fresh(folder) / "mailbox")], octets, LARGE, TOGETHER)


def mailbox(folder: Path) -> Path:
    """An empty Maildir, made there."""
    for name in ("tmp", "new", "cur"):
        (folder / name).mkdir(mode=0o700, parents=True)
    return folder


def files_alone(mailboxes: Sequence[Path], octets: bytes, count: int, together: int) -> float:
    """Files a second, in turn in all ``mailboxes``, ``together`` at a time: with one sync of the file system
    or, from ``OWN_SYNC_OCTETS`` on, each with its own, as the server does."""
    sync = ctypes.CDLL(None).syncfs
    descriptor = os.open(mailboxes[0], os.O_RDONLY)
    began = time.perf_counter()
    for turn in range(0, count, together):
        files, folders = [], set()
        for number in range(turn, min(turn + together, count)):
            place, name = mailboxes[number % len(mailboxes)], str(number)
            fd = os.open(place / "tmp" / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            _write_all(fd, octets)
            if len(octets) > OWN_SYNC_OCTETS:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # begins to write, and waits for nothing
                files.append(fd)
                folders.add(place / "new")
            else:
                os.close(fd)
            os.rename(place / "tmp" / name, place / "new" / name)
        for fd in [*files, *(os.open(folder, os.O_RDONLY) for folder in folders)]:
            os.fsync(fd)
            os.close(fd)
        if not files and sync(descriptor) != 0:
            raise OSError("syncfs failed")
    seconds = time.perf_counter() - began
    os.close(descriptor)
    return count / seconds


def _write_all(fd: int, octets: bytes) -> None:
    rest = memoryview(octets)
    while rest:
        rest = rest[os.write(fd, rest) :]


def handshakes(folder: Path) -> float:
    """Full TLS handshakes that one processor answers in a second: OpenSSL's part of the server's side."""
    certificate, key = _certificate(fresh(folder))
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate_file(str(certificate))
    context.use_privatekey_file(str(key))
    seconds = sum(_handshake(context, SSL.Context(SSL.TLS_CLIENT_METHOD)) for _ in range(HANDSHAKES))
    return HANDSHAKES / seconds


def _handshake(context: SSL.Context, client_context: SSL.Context) -> float:
    """Seconds that the server needs for one handshake."""
    server, client = SSL.Connection(context), SSL.Connection(client_context)
    server.set_accept_state()
    client.set_connect_state()
    seconds = 0.0
    for _ in range(2):  # hello, and the client's end
        with suppress(SSL.WantReadError):
            client.do_handshake()
        hello = client.bio_read(2**16)
        began = time.perf_counter()
        server.bio_write(hello)
        with suppress(SSL.WantReadError):
            server.do_handshake()
        answer = server.bio_read(2**16)
        seconds += time.perf_counter() - began
        client.bio_write(answer)
    return seconds


class _Echo(protocol.Protocol):
    """Answers every line; the lines of a message's content are one."""

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        transport.write(b"250 2.0.0 Ok\r\n" * data.count(b"\n"))


def _serve(port: int) -> None:
    reactor = EPollReactor()
    factory = protocol.Factory.forProtocol(_Echo)
    factory.noisy = False
    reactor.listenTCP(port, factory, interface="127.0.0.1")
    reactor.run()


def bare_protocol(folder: Path) -> float:
    """Messages a second, each five lines and their answers in lock-step over twenty sessions, no disk."""
    port = free_port()
    server = multiprocessing.Process(target=_serve, args=(port,), daemon=True)
    server.start()
    try:
        clients = [_connected(port) for _ in range(SESSIONS)]
        began = time.perf_counter()
        for _ in range(TURNS * LINES):
            for client in clients:
                client.send(b"RCPT TO:<ada@bench.test>\r\n")
            for client in clients:
                client.recv(100)
        return SESSIONS * TURNS / (time.perf_counter() - began)
    finally:
        server.terminate()
        server.join()


def _connected(port: int) -> socket.socket:
    end = time.monotonic() + 10.0
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


SQLITE = "SQLite alone, a commit for twenty messages"
FILES = "files alone, a sync for fifty"
LARGE_FILES = "files of 1 MiB alone, each synced"
TLS = "OpenSSL alone, a handshake"
TWISTED = "Twisted alone, five answers in lock-step"
ONE_ANSWER = "Twisted alone, one answer"

LIMITS = {
    SQLITE: sqlite_commits,
    FILES: synced_files,
    LARGE_FILES: large_files,
    TLS: handshakes,
    TWISTED: bare_protocol,
}


def measure(folder: Path, rounds: int) -> list[Limit]:
    """Each limit, the median of ``rounds``."""
    limits = [Limit(name, median(limit(folder) for _ in range(rounds))) for name, limit in LIMITS.items()]
    answers = next(limit.rate for limit in limits if limit.name == TWISTED) * LINES
    return [*limits, Limit(ONE_ANSWER, answers)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on the disk to measure")
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args()
    limits = measure(options.folder, options.rounds)
    if options.json:
        print(json.dumps([asdict(limit) for limit in limits]))
    else:
        for limit in limits:
            print(f"{limit.name:40s} {limit.rate:8,.0f} messages/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
