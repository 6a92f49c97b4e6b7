"""One message to a hundred thousand: others pass it, memory stays small, and kill -9 loses nobody."""

from __future__ import annotations

import smtplib
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.waiting import measure
from tests.journeys.scripted import Scripted
from tests.journeys.server import Server
from tests.journeys.tools import PATIENCE, eventually

MANY = 100_000
MEMORY_KIB = 300 * 1024


@pytest.mark.long
def test_a_message_to_a_hundred_thousand(make_server: Callable[..., Server]) -> None:
    peer = Scripted()
    settings = {
        "relay": {"trusted_networks": ["127.0.0.1"], "retry": ["1s"]},
        "relay.routes": {"*": f"smtp://127.0.0.1:{peer.port}"},
        "limits": {"recipients": MANY},
    }
    server = make_server("a", "mx.a.test", ["a.test"], settings)
    server.add_user("ada@a.test")
    server.start()
    try:
        _send_to_many(server)
        eventually(lambda: len(peer.delivered) > MANY // 10, "a tenth of them", 300)
        server.kill()
        before = peer.delivered.copy()
        server.start()
        _send(server, "bob@b.test", "to one")
        _send(server, "ada@a.test", "to one here")
        eventually(lambda: peer.taken["to one"] == 1, "the message to one")
        left = MANY - len(peer.delivered)
        eventually(lambda: len(server.raw_mail("ada@a.test")) == 1, "the message to one here")
        assert left > MANY // 10, "nobody had to pass"
        memory = _highest_kib(server)
        eventually(lambda: len(peer.delivered) == MANY + 1, "all of them", 900)
        eventually(lambda: server.queue() == [], "an empty queue", 60)
        assert max(memory, _highest_kib(server)) < MEMORY_KIB
        # Only what the peer had taken when the server died comes twice: a few transactions of a hundred.
        twice = [address for address, count in peer.delivered.items() if count > 1]
        assert set(twice) <= set(before)
        assert len(twice) <= 20 * 100
    finally:
        peer.stop()


def _send_to_many(server: Server) -> None:
    """One transaction, its commands in blocks of a thousand, as a client that pipelines sends them."""
    with socket.create_connection((server.host, server.ports["smtp"]), timeout=PATIENCE) as client:
        replies = client.makefile("rb")

        def heard(code: bytes, count: int = 1) -> None:
            for _ in range(count):
                line = replies.readline()
                while line[3:4] == b"-":
                    line = replies.readline()
                assert line.startswith(code), line

        heard(b"220")
        client.sendall(b"EHLO list.a.test\r\nMAIL FROM:<list@a.test>\r\n")
        heard(b"250", 2)
        for start in range(0, MANY, 1000):
            lines = [f"RCPT TO:<u{n}@b{n % 7}.test>\r\n" for n in range(start, start + 1000)]
            client.sendall("".join(lines).encode())
            heard(b"250", 1000)
        client.sendall(b"DATA\r\n")
        heard(b"354")
        client.sendall(b"From: list@a.test\r\nSubject: to many\r\n\r\nhello\r\n.\r\nQUIT\r\n")
        heard(b"250")


def _send(server: Server, to: str, subject: str) -> None:
    with smtplib.SMTP(server.host, server.ports["smtp"], timeout=PATIENCE) as client:
        client.sendmail("carol@c.test", [to], f"From: carol@c.test\r\nSubject: {subject}\r\n\r\nhello\r\n")


def _highest_kib(server: Server) -> int:
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


@pytest.mark.long
def test_fifty_thousand_waiting_messages(tmp_path: Path) -> None:
    figures = measure(tmp_path, 50_000, 1, 20.0)
    assert figures.waiting == 50_000
    assert figures.memory < MEMORY_KIB * 1024
    assert figures.processor < 5.0  # by the clock it is what the machine has left for us
