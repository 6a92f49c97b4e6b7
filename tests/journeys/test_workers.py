"""``workers = 2``: two processes share the ports; one dies, the number is lowered, all end."""

from __future__ import annotations

import os
import re
import signal
import smtplib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from mailserver.shared_counts import FILE_NAME, SharedCounts
from mailserver.values.envelope import entry_number
from tests.journeys.server import Server
from tests.journeys.tools import PATIENCE, eventually, ours, run

TWO: dict[str, dict[str, Any]] = {"": {"workers": 2}}
SENDERS = 8
KILLS = 2
BIG = "x" * 70 + "\r\n"


def workers_of(server: Server) -> dict[int, int]:
    """The processes that a server has started: number -> process id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if parent == server.pid and b"mailserver.worker" in words:
            found[int(words[-2].partition(b"/")[0])] = int(folder.name)
    return found


def start(server: Server) -> None:
    """Start it, and wait until its workers serve: its ports take connections before."""
    said = server.console().count("listening: pop3s") if server.log.exists() else 0
    server.start()
    eventually(lambda: server.console().count("listening: pop3s") > said, "workers that serve")


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def worker_in(queue_id: str) -> int:
    """Whose spool an entry is in: the number is in the id."""
    return entry_number(queue_id) & 1023


class Load:
    """Clients that send numbered messages until they are told to stop, whatever happens to them."""

    def __init__(self, server: Server, recipient: str) -> None:
        self._server = server
        self._recipient = recipient
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._next = 0
        self.acknowledged: dict[int, int] = {}  # number -> worker
        self._threads = [threading.Thread(target=self._send_on) for _ in range(SENDERS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _send_on(self) -> None:
        while not self._stopped.is_set():
            try:
                self._session()
            except (OSError, smtplib.SMTPException):
                time.sleep(0.02)

    def _session(self) -> None:
        with smtplib.SMTP(self._server.host, self._server.ports["smtp"], timeout=PATIENCE) as client:
            for _ in range(5):
                with self._lock:
                    self._next += 1
                    number = self._next
                # Every seventh is long enough to have a file of its own in the spool.
                body = BIG * (6000 if number % 7 == 0 else 20)
                client.ehlo()
                client.mail("x@out.test")
                client.rcpt(self._recipient)
                code, text = client.data(f"Subject: number {number};\r\n\r\n{body}")
                found = re.search(rb"queued as (\w+)", text)
                if code == 250 and found:
                    self.acknowledged[number] = worker_in(found[1].decode())

    def of(self, worker: int) -> int:
        """How many messages a worker has answered for."""
        return sum(one == worker for one in list(self.acknowledged.values()))


def numbers_in(server: Server, login: str) -> Counter[int]:
    return Counter(
        int(found[1]) for raw in server.raw_mail(login) if (found := re.search(rb"number (\d+);", raw))
    )


def kill_worker_1(server: Server, load: Load) -> None:
    """Kill it; done when worker 0 has gone on meanwhile and a new worker 1 is at work."""
    workers, served = workers_of(server), load.of(0)
    os.kill(workers[1], signal.SIGKILL)
    eventually(lambda: load.of(0) > served + 20, "the other going on")
    eventually(lambda: workers_of(server).get(1, workers[1]) != workers[1], "a new worker")
    served = load.of(1)
    eventually(lambda: load.of(1) > served + 5, "the new one at work")
    assert workers_of(server)[0] == workers[0]


def test_one_is_killed_under_load_and_nothing_is_lost(make_server: Callable[..., Server]) -> None:
    server = make_server("a", "mx.a.test", ["a.test"], TWO)
    server.add_user("ada@a.test")
    start(server)
    with Load(server, "ada@a.test") as load:
        eventually(lambda: load.of(0) > 20 and load.of(1) > 20, "both workers at work")
        for _ in range(KILLS):
            before = workers_of(server)
            os.kill(before[1], signal.SIGKILL)
            served = load.of(0)
            eventually(lambda served=served: load.of(0) > served + 20, "the other going on")  # type: ignore[misc]
            eventually(
                lambda before=before: workers_of(server).get(1, before[1]) != before[1], "a new worker"
            )  # type: ignore[misc]
            served = load.of(1)
            eventually(lambda served=served: load.of(1) > served + 5, "the new one at work")  # type: ignore[misc]
            assert workers_of(server)[0] == before[0]
    eventually(lambda: server.queue() == [], "an empty queue")
    kept = numbers_in(server, "ada@a.test")
    assert load.acknowledged.keys() - kept.keys() == set(), "lost"
    assert {n: times for n, times in kept.items() if times > 1} == {}, "twice"
    assert server.console().count("worker 1 serves again") == KILLS
    assert server.console().count("worker 1 ended by signal 9") == KILLS


def test_fewer_workers_deliver_what_the_others_had_waiting(make_server: Callable[..., Server]) -> None:
    b = make_server("b", "mx.b.test", ["b.test"])
    b.add_user("bob@b.test")
    relay = {"retry": ["1s"], "trusted_networks": ["127.0.0.0/8"], "allow_loopback": True}
    routes = {"*": f"smtp://127.0.0.1:{b.ports['smtp']}"}
    a = make_server("a", "mx.a.test", ["a.test"], {**TWO, "relay": relay, "relay.routes": routes})
    start(a)
    with Load(a, "bob@b.test") as load:
        eventually(lambda: load.of(0) > 5 and load.of(1) > 5, "mail in both spools")
    a.stop()
    assert {worker_in(entry["id"]) for entry in a.queue()} == {0, 1}

    text = a.configuration.read_text()
    a.configuration.write_text(text.replace('"workers" = 2', '"workers" = 1'))
    b.start()
    start(a)
    assert workers_of(a) == {}
    eventually(lambda: a.queue() == [], "an empty queue")
    eventually(lambda: b.queue() == [], "an empty queue at the other server")
    kept = numbers_in(b, "bob@b.test")
    assert load.acknowledged.keys() - kept.keys() == set(), "lost"
    assert {n: times for n, times in kept.items() if times > 1} == {}, "twice"


def test_new_connections_go_to_the_worker_that_has_taken_fewer(make_server: Callable[..., Server]) -> None:
    """Tried several times: on a busy machine the one to which they are left may get no turn in time."""
    server = make_server("a", "mx.a.test", ["a.test"], TWO)
    start(server)
    eventually(
        lambda: all(parts_with_busy(server, busy)[1 - busy] >= 18 for busy in (0, 1)),
        "most connections at the one that has taken fewer",
    )


def parts_with_busy(server: Server, busy: int) -> list[int]:
    """How many of 24 connections each worker takes, after ``busy`` has taken a thousand."""
    pids = [pid for _, pid in sorted(workers_of(server).items())]
    before = [sockets_of(pid) for pid in pids]
    counts = SharedCounts(server.folder / "state" / FILE_NAME, busy, 2)
    counts.open()
    with ExitStack() as clients:
        clients.callback(counts.close)
        for _ in range(1000):
            counts.took()
        for _ in range(24):
            client = clients.enter_context(socket.create_connection(("127.0.0.1", server.ports["smtp"])))
            assert client.recv(200).startswith(b"220")
        parts = [sockets_of(pid) - there for pid, there in zip(pids, before, strict=True)]
    eventually(lambda: [sockets_of(pid) for pid in pids] == before, "the end of all sessions")
    assert sum(parts) == 24
    return parts


def sockets_of(pid: int) -> int:
    """Sockets that a process has open."""
    count = 0
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            count += os.readlink(descriptor).startswith("socket:")
    return count


def test_sigterm_ends_all(make_server: Callable[..., Server]) -> None:
    server = make_server("a", "mx.a.test", ["a.test"], TWO)
    start(server)
    workers = workers_of(server)
    assert workers.keys() == {0, 1}
    server.stop()
    assert not any(is_alive(pid) for pid in workers.values())
    assert "starting" not in server.console().partition("SIGTERM")[2]
    start(server)  # ports and spools are free at once


def test_workers_end_when_nobody_looks_after_them(make_server: Callable[..., Server]) -> None:
    server = make_server("a", "mx.a.test", ["a.test"], TWO)
    server.add_user("ada@a.test")
    start(server)
    workers = workers_of(server)
    assert server.process is not None
    server.process.kill()
    server.process.wait()
    try:
        eventually(lambda: not any(is_alive(pid) for pid in workers.values()), "the end of the workers")
    finally:
        for pid in filter(is_alive, workers.values()):
            os.kill(pid, signal.SIGKILL)
    server.start()
    with smtplib.SMTP(server.host, server.ports["smtp"], timeout=PATIENCE) as client:
        client.sendmail("x@out.test", "ada@a.test", "Subject: after\r\n\r\n")
    eventually(lambda: len(server.raw_mail("ada@a.test")) == 1, "the message")


def test_a_worker_that_cannot_start_stops_the_start_with_one_line(make_server: Callable[..., Server]) -> None:
    server = make_server("a", "mx.a.test", ["a.test"], TWO)
    spool = server.folder / "state" / "spool" / "spool-1.sqlite"
    spool.parent.mkdir(parents=True)
    spool.write_bytes(b"this is not a database, whatever its name says" * 50)
    done = run(server.command, cwd=server.folder)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert "spool-1.sqlite" in line


def test_a_daemon_writes_the_lines_of_its_workers_into_its_log(make_server: Callable[..., Server]) -> None:
    server = make_server("a", "mx.a.test", ["a.test"], TWO)
    server.add_user("ada@a.test")
    pid_file, log = server.folder / "pid", server.folder / "twistd.log"
    arguments = [f"--pidfile={pid_file}", "mailserver", "--config", str(server.configuration)]
    started = run([ours("twistd"), *arguments], cwd=server.folder)
    assert started.returncode == 0, started.stdout + started.stderr
    try:
        with smtplib.SMTP(server.host, server.ports["smtp"], timeout=PATIENCE) as client:
            client.sendmail("x@out.test", "ada@a.test", "Subject: logged\r\n\r\n")
        eventually(lambda: "status=sent" in log.read_text(), "the line of the delivery")
    finally:
        os.kill(int(pid_file.read_text()), signal.SIGTERM)
        eventually(lambda: not pid_file.exists(), "the end of the daemon")
