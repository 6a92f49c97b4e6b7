"""A server of two workers: they count strangers together, and ``mailserver terminal`` is found by both."""

from __future__ import annotations

import os
import signal
import smtplib
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.journeys.server import PASSWORD, Server
from tests.journeys.test_workers import start, workers_of
from tests.journeys.tools import eventually, ours

ADA, BOB = "ada@example.test", "bob@example.test"


class Terminal:
    """The command, with what it has written so far."""

    def __init__(self, server: Server, address: str) -> None:
        self._file = server.folder / "terminal.txt"
        command = [ours("mailserver"), "--config", str(server.configuration), "terminal", address]
        with self._file.open("ab") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, cwd=server.folder)

    def text(self) -> str:
        return self._file.read_text()

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(20)


MOST = 6


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings: dict[str, dict[str, Any]] = {
        "": {"workers": 2},
        "login": {"allow_cleartext": True},
        "store": {"quota_messages": 4},
        "limits": {"exempt": [], "connections_by_client": MOST},
    }
    server = Server(tmp_path_factory.mktemp("two") / "server", "mx.example.test", ["example.test"], settings)
    start(server)
    server.add_user(ADA)
    server.add_user(BOB)
    yield server
    server.stop()


def send(server: Server, verb: str, text: str) -> int:
    """The code of the last reply to a message from Ada to Bob."""
    with smtplib.SMTP("127.0.0.1", server.ports["submission"], timeout=20) as client:
        client.login(ADA, PASSWORD)
        assert client.docmd(f"{verb} FROM:<{ADA}>")[0] == 250
        code, _ = client.docmd(f"RCPT TO:<{BOB}>")
        if code != 250:
            return code
        return client.data(f"From: {ADA}\r\nSubject: {text}\r\n\r\n\x1b[2J{text}\r\n")[0]


def test_a_client_has_its_connections_from_all_workers_together(server: Server) -> None:
    with ExitStack() as open_ones:
        greetings = []
        for _ in range(3 * MOST):
            client = open_ones.enter_context(
                socket.create_connection(("127.0.0.1", server.ports["smtp"]), timeout=20)
            )
            greetings.append(client.recv(1000)[:3])
    # Each for itself would take twice as many; both at the same moment may take one too many.
    assert MOST <= greetings.count(b"220") <= MOST + 1
    assert greetings.count(b"421") == 3 * MOST - greetings.count(b"220")


def test_a_full_mailbox_is_told_at_rcpt(server: Server) -> None:
    server.add_user("carl@example.test")
    codes: list[tuple[int, bytes]] = []

    def is_full() -> bool:
        with smtplib.SMTP("127.0.0.1", server.ports["smtp"], timeout=20) as client:
            client.ehlo()
            client.mail("dave@elsewhere.test")
            codes.append(client.rcpt("carl@example.test"))
            if codes[-1][0] == 250:
                client.data("Subject: x\r\n\r\nx\r\n")
        return codes[-1][0] != 250

    eventually(is_full, "a mailbox that is full")
    assert codes[-1][0] == 452
    assert codes[-1][1].startswith(b"4.2.2 <carl@example.test>: the mailbox is full")


def test_a_terminal_is_found_by_all_workers_and_comes_back(server: Server) -> None:
    assert send(server, "SEND", "nobody there") == 450
    terminal = Terminal(server, BOB)
    eventually(lambda: "attached" in terminal.text(), "a terminal that is attached")
    # Connections fall to either worker; with twelve, both have had some (but for one run in two thousand).
    for n in range(12):
        assert send(server, "SEND", f"send-{n}") == 250
    assert all(f"?[2Jsend-{n}\n" in terminal.text() for n in range(12))
    assert server.mail(BOB) == []
    assert send(server, "SOML", "soml") == 250
    assert send(server, "SAML", "saml") == 250
    eventually(lambda: "saml" in terminal.text() and "soml" in terminal.text(), "both on the terminal")
    eventually(lambda: len(server.mail(BOB)) == 1, "the one that is for the mailbox too")

    os.kill(workers_of(server)[1], signal.SIGKILL)
    eventually(lambda: 1 in workers_of(server), "a worker that came back")

    def reaches_both() -> bool:
        return all(send(server, "SEND", "again") == 250 for _ in range(8))

    eventually(reaches_both, "the terminal, attached to the new worker too")
    assert terminal.end() == 0
    eventually(lambda: send(server, "SEND", "gone") == 450, "no terminal")
    assert send(server, "SOML", "into the mailbox") == 250
    eventually(lambda: len(server.mail(BOB)) == 2, "SOML without a terminal")

    refused = Terminal(server, "dave@example.test")
    assert refused.process.wait(20) == os.EX_UNAVAILABLE
    assert "no user of that address" in refused.text()
    server.stop()
    refused = Terminal(server, BOB)
    assert refused.process.wait(20) == os.EX_UNAVAILABLE
    assert "is it running?" in refused.text()
