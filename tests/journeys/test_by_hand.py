"""A session typed by hand with Debian's telnet, read back by curl."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from collections.abc import Callable

import pytest

from tests.journeys.server import PASSWORD, Server
from tests.journeys.tools import PATIENCE, run, tool


class Keyboard:
    """Somebody at a terminal: types a line, reads what appears."""

    def __init__(self, *command: str) -> None:
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, close_fds=True)
        os.close(slave)
        self.seen = b""

    def type(self, line: str) -> None:
        os.write(self._master, line.encode() + b"\r")

    def read_until(self, awaited: bytes) -> bytes:
        """What appeared since the last call, up to the line that starts with ``awaited``."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            for number, line in enumerate(lines := self.seen.splitlines(keepends=True)):
                if line.startswith(awaited) and line.endswith(b"\n"):
                    read, self.seen = b"".join(lines[: number + 1]), b"".join(lines[number + 1 :])
                    return read
            if select.select([self._master], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self._master, 4096)
                except OSError:
                    break  # telnet has ended, and its terminal with it
        raise AssertionError(f"{awaited!r} did not appear, but {self.seen!r}")

    def close(self) -> None:
        os.close(self._master)
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait(PATIENCE)


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    """One that lets people log in without TLS: `curl pop3://` and a terminal have none."""
    made = make_server("a", "mx.a.test", ["a.test"], {"login": {"allow_cleartext": True}})
    made.add_user("ada@a.test")
    return made.start()


def test_a_session_typed_with_telnet_is_read_back_unchanged(server: Server) -> None:
    hand = Keyboard(tool("telnet"), server.host, str(server.ports["smtp"]))
    try:
        hand.read_until(b"220 ")
        for line, awaited in (
            ("helo me", b"250 "),
            ("MAIL FROM: <bob@elsewhere.test>", b"250 "),
            ("rcpt to: <ada@a.test>", b"250 "),
            ("DATA", b"354 "),
        ):
            hand.type(line)
            hand.read_until(awaited)
        for line in ("Subject: typed", "", "first line", "..a line that starts with a dot", "...", "last"):
            hand.type(line)
        hand.type(".")
        hand.read_until(b"250 ")
        hand.type("QUIT")
        hand.read_until(b"221 ")
    finally:
        hand.close()

    url = f"pop3://{server.host}:{server.ports['pop3']}/1"
    read = run([tool("curl"), "-s", "--user", f"ada@a.test:{PASSWORD}", url])
    assert read.returncode == 0, read.stderr
    header, _, body = read.stdout.partition("\n\n")
    assert "Subject: typed" in header
    assert "Return-Path: <bob@elsewhere.test>" in header
    assert body == "first line\n.a line that starts with a dot\n..\nlast\n"


def test_several_messages_and_a_second_helo_in_one_session(server: Server) -> None:
    hand = Keyboard(tool("telnet"), server.host, str(server.ports["smtp"]))
    try:
        hand.read_until(b"220 ")
        for number in ("one", "two"):
            for line, awaited in (
                ("HELO 127.0.0.1", b"250 "),
                ("mail from:<>", b"250 "),
                ("rcpt to:<ada@a.test>", b"250 "),
                ("data", b"354 "),
                (f"Subject: {number}\r\r.", b"250 "),
            ):
                hand.type(line)
                hand.read_until(awaited)
        hand.type("help")
        assert b"MAIL" in hand.read_until(b"214 ")
        hand.type("quit")
        hand.read_until(b"221 ")
    finally:
        hand.close()
    assert {m["Subject"] for m in server.mail("ada@a.test")} == {"one", "two"}
