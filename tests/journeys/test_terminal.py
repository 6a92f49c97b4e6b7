"""``mailserver terminal`` beside a server of two workers: SEND, SOML and SAML find it in either of them."""

from __future__ import annotations

import os
import signal
import smtplib
import subprocess
from collections.abc import Iterator
from pathlib import Path

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


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    settings = {"": {"workers": 2}, "login": {"allow_cleartext": True}}
    server = Server(tmp_path / "server", "mx.example.test", ["example.test"], settings)
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
