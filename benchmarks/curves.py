"""How the cost of a message grows with the work: one line of a plot for each kind of growth, ours alone.

``python -m benchmarks.curves --help`` tells the options.  Each point is a server of its own over an empty
folder: sessions at once, mailboxes, recipients of a message, length, and what already waits in the queue.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import smtplib
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.limits import files_alone, mailbox
from benchmarks.local_delivery import WARM, Load, Lost, _send, _wait_for_last
from benchmarks.measure import Meter
from benchmarks.peers import DOMAIN, OurServer, PeerFailed, PeerMissing, free_port
from benchmarks.places import fresh
from benchmarks.waiting import fill
from mailserver.accounts.directory import SqliteDirectory
from mailserver.accounts.secrets import secrets_of
from mailserver.store.batches import BATCH
from mailserver.values.address import Address

ARRIVAL_SECONDS = 300.0

BESIDE = 30_000
"""Messages over all sessions: six for each of 5,000, and not so many that the ledger's daily run, ten seconds
after a start, falls into the measurement."""

CLIENTS = 10
"""At once, where a message goes to others than the last one."""

WAIT_SECONDS = 3600.0
"""Until the next attempt on what waits; `benchmarks.waiting` measures what falls due all at once."""


@dataclass(frozen=True, slots=True)
class Point:
    """``rate`` in messages (for recipients: in deliveries) a second, ``cpu`` in microseconds of a processor
    for each, ``memory`` in octets, the highest. ``disk`` is the rate at which the same files are made and
    synced in the same groups with no server, where the size changes what the disk has to do; otherwise 0."""

    size: int
    rate: float
    cpu: float
    memory: int
    disk: float = 0.0


class Server(OurServer):
    """Ours with as many connections as are asked for, further users, and a next hop that is not there."""

    def __init__(self, folder: Path, users: int = 0) -> None:
        super().__init__(folder, 1)
        self._users = users
        self.mail = folder / "maildirs" / DOMAIN

    def start(self) -> None:
        if self._users:
            self._add_users()
        super().start()

    def _extra(self) -> str:
        return (
            '[limits]\nconnections = 10000\nrecipients = 1000\n[relay]\ntrusted_networks = ["127.0.0.0/8"]\n'
            f'[relay.routes]\n"*" = "smtp://127.0.0.1:{free_port()}"\n'
        )

    def _add_users(self) -> None:
        state = self._folder / "state"
        state.mkdir(mode=0o700)
        directory = SqliteDirectory(state / "accounts.sqlite", [DOMAIN])
        directory.open()
        secrets = secrets_of("a password for the benchmark only")
        for number in range(self._users):
            directory.add_user(Address(f"user{number}", DOMAIN), secrets)
            mailbox(self.mail / f"user{number}")  # it is made once in its life
        directory.close()

    def delivered(self) -> int:
        """Files in all mailboxes."""
        return sum(sum(1 for _ in new.iterdir()) for new in self.mail.glob("*/new"))


@contextmanager
def _running(users: int = 0, waiting: int = 0) -> Iterator[Server]:
    place = fresh(Path("/var/tmp"))
    server = Server(place, users)
    if waiting:
        fill(place / "state" / "spool", waiting, 1, wait=WAIT_SECONDS)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _by_smtp_source(size: int, load: Load, waiting: int = 0) -> Point:
    with _running(waiting=waiting) as server:
        _send(server.port, Load(WARM, min(load.sessions, 20), 4096))
        _wait_for_last(server.new, WARM)
        with Meter(server.pid) as meter:
            began = time.time()
            _send(server.port, load)
            seconds = _wait_for_last(server.new, WARM + load.messages) - began
        cost = meter.cost
        return Point(size, load.messages / seconds, cost.cpu / load.messages * 1e6, cost.memory)


def sessions(size: int) -> Point:
    """At once. As many messages for each point, in one folder: a folder costs more the more it has."""
    point = _by_smtp_source(size, Load(BESIDE, size, 4096))
    return replace(point, disk=_disk_alone(1, 4096, BESIDE, min(size, BATCH)))


def octets(size: int) -> Point:
    """Of a message, over 20 sessions."""
    count = max(40, min(2000, 400 * 2**20 // size))
    point = _by_smtp_source(size, Load(count, 20, size))
    return replace(point, disk=_disk_alone(1, size, count, 20))


def _disk_alone(mailboxes: int, octets: int, count: int, together: int) -> float:
    place = fresh(Path("/var/tmp"))
    folders = [mailbox(place / str(number)) for number in range(mailboxes)]
    os.sync()
    spread = [folders[number * 7919 % mailboxes] for number in range(mailboxes)]
    return files_alone(spread, b"x" * octets, count, together)


def waiting(size: int) -> Point:
    """Messages in the queue that wait for their next attempt, while others are delivered here."""
    return _by_smtp_source(size, Load(2000, 20, 4096), waiting=size)


def mailboxes(size: int) -> Point:
    """That messages go to, all over them."""
    point = _to_users(size, lambda number: [number * 7919 % size], users=size, messages=4000)
    return replace(point, disk=_disk_alone(size, 4096, 4000, CLIENTS))


def recipients(size: int) -> Point:
    """Of one message; the rate is of deliveries."""
    return _to_users(size, lambda number: list(range(size)), users=size, messages=max(20, 2000 // size))


def _to_users(size: int, whom: Callable[[int], list[int]], users: int, messages: int) -> Point:
    with _running(users) as server:
        numbers = iter(range(messages))
        content = "Subject: message\r\n\r\n" + ("x" * 70 + "\r\n") * 56

        def send(turns: Iterator[int]) -> None:
            with smtplib.SMTP("127.0.0.1", server.port, timeout=120) as client:
                for number in turns:
                    to = [f"user{one}@{DOMAIN}" for one in whom(number)]
                    client.sendmail(f"sender@{DOMAIN}", to, content)

        _warm(server, users, content)
        total = users + sum(len(whom(number)) for number in range(messages))
        with Meter(server.pid) as meter:
            began = time.time()
            with ThreadPoolExecutor(CLIENTS) as clients:
                list(clients.map(send, [numbers] * CLIENTS))  # one iterator: `next` of a range is one step
            while server.delivered() < total:
                if time.time() - began > ARRIVAL_SECONDS:
                    raise Lost(f"{total - server.delivered()} of {total} deliveries are missing")
                time.sleep(0.05)
            seconds = time.time() - began
        cost = meter.cost
        counted = total - users
        return Point(size, counted / seconds, cost.cpu / counted * 1e6, cost.memory)


def _warm(server: Server, users: int, content: str) -> None:
    """A message for each mailbox, as all have had one in a server that runs for longer than a minute."""
    with smtplib.SMTP("127.0.0.1", server.port, timeout=120) as client:
        for begin in range(0, users, 100):
            to = [f"user{one}@{DOMAIN}" for one in range(begin, min(begin + 100, users))]
            client.sendmail(f"sender@{DOMAIN}", to, content)
    end = time.time() + ARRIVAL_SECONDS
    while (there := server.delivered()) < users:
        if time.time() > end:
            raise Lost(f"{users - there} of {users} first deliveries are missing")
        time.sleep(0.05)


CURVES: dict[str, tuple[Callable[[int], Point], tuple[int, ...]]] = {
    "sessions at once": (sessions, (1, 10, 100, 1000, 5000)),
    "waiting messages": (waiting, (10, 1000, 100_000)),
    "mailboxes": (mailboxes, (1, 100, 10_000)),
    "recipients of a message": (recipients, (1, 10, 100)),
    "octets of a message": (octets, (1024, 16_384, 262_144, 2**20, 25 * 2**20)),
}


def measure(names: list[str]) -> dict[str, list[Point]]:
    """The curves, in order; each point is printed as it comes.

    Raises:
        PeerMissing, PeerFailed, Lost: a program is missing, or the server did not do what it should.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    curves: dict[str, list[Point]] = {}
    for name in names:
        point_at, sizes = CURVES[name]
        for size in sizes:
            point = point_at(size)
            curves.setdefault(name, []).append(point)
            print(
                f"{name:24s} {size:9d} {point.rate:8.1f}/s {point.cpu:8.0f} us each "
                f"{point.memory / 2**20:7.1f} MiB"
                + (f"   the disk alone {point.disk:8.1f}/s" if point.disk else ""),
                flush=True,
            )
    return curves


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.curves", description=__doc__)
    parser.add_argument("--only", choices=list(CURVES), action="append", help="this curve; may be repeated")
    parser.add_argument("--json", action="store_true", help="print the points as JSON at the end")
    options = parser.parse_args()
    try:
        curves = measure(options.only or list(CURVES))
    except (PeerMissing, PeerFailed, Lost) as error:
        print(f"curves: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps({name: [asdict(point) for point in points] for name, points in curves.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
