"""What hostile clients hide between two messages, sent on to a real Postfix that would fall for it."""

from __future__ import annotations

import itertools
import os
import re
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import Postfix
from tests.journeys.server import Server
from tests.journeys.tools import PATIENCE, eventually, lacking, tool
from tests.receive.smuggling import VARIANTS, message

TO = b"user@bench.test"
BEGIN = (b"EHLO far.test\r\n", b"MAIL FROM:<carol@far.test>\r\n", b"RCPT TO:<" + TO + b">\r\n")
WAYS = ("DATA", "DATA in turn", "BDAT", "BDAT in turn")


class LenientPostfix(Postfix):
    """As Debian 12 ships it: a bare LF ends a line there."""

    def subjects(self) -> list[str]:
        """Of the messages that it has delivered."""
        texts = [path.read_bytes() for path in self.new.glob("*")] if self.new.exists() else []
        return [re.findall(rb"^Subject: (.*?)\r?$", text, re.M)[0].decode() for text in texts]


@pytest.fixture(scope="module")
def started() -> Iterator[LenientPostfix]:
    """One for all."""
    tool("postconf", "postfix")
    if os.geteuid() != 0:
        lacking("Postfix starts as root only")
    with tempfile.TemporaryDirectory(prefix="postfix-") as folder:
        server = LenientPostfix(Path(folder))
        server.start()
        yield server
        server.stop()


@pytest.fixture
def postfix(started: LenientPostfix) -> LenientPostfix:
    """With an empty mailbox."""
    for path in started.new.glob("*"):
        path.unlink()
    return started


def client(server: Server) -> socket.socket:
    return socket.create_connection((server.host, server.ports["smtp"]), timeout=PATIENCE)


def reply(connection: socket.socket) -> bytes:
    octets = b""
    while not re.search(rb"(^|\n)[2-5][0-9]{2} [^\n]*\n$", octets):
        if not (more := connection.recv(65536)):
            break
        octets += more
    return octets


def content_of(number: int, variant: bytes) -> bytes:
    """The first message, the variant, and behind it a second one to a mailbox that Postfix has."""
    hidden = message(variant).replace(b"bob@example.test", TO)
    return hidden.replace(b"Subject: first", b"Subject: first %d" % number)


def send(server: Server, way: str, content: bytes) -> int:
    """Send it; how many messages the server says that it has taken."""
    chunked = way.startswith("BDAT")
    begin = [*BEGIN, b"BDAT %d LAST\r\n" % len(content) if chunked else b"DATA\r\n"]
    said = b""
    with client(server) as connection:
        if way.endswith("in turn"):
            said += reply(connection)
            for line in begin[:-1] if chunked else begin:
                connection.sendall(line)
                said += reply(connection)
            connection.sendall((begin[-1] if chunked else b"") + content)
            said += reply(connection)
            connection.sendall(b"QUIT\r\n")
        else:
            connection.sendall(b"".join(begin) + content + b"QUIT\r\n")
        try:
            while more := connection.recv(65536):
                said += more
        except ConnectionResetError:
            pass
    return said.count(b": queued as ")


def relay(make_server: Callable[..., Server], mends: bool, port: int) -> Server:
    settings: dict[str, dict[str, Any]] = {
        "relay": {"trusted_networks": ["127.0.0.0/8"], "allow_loopback": True},
        "relay.routes": {"*": f"smtp://127.0.0.1:{port}"},
    }
    if mends:
        settings["limits"] = {"normalize": ["127.0.0.0/8"]}
    return make_server("a", "mx.a.test", ["a.test"], settings).start()


def nothing_gets_through(server: Server, postfix: LenientPostfix, cases: list[tuple[bytes, str]]) -> None:
    accepted = []
    for number, (variant, way) in enumerate(cases):
        taken = send(server, way, content_of(number, variant))
        assert taken <= 1, (variant, way)
        accepted += [f"first {number}"] * taken
    assert accepted
    eventually(lambda: server.queue() == [], "all has left us")
    eventually(lambda: len(postfix.subjects()) >= len(accepted), "all is in Postfix's mailbox")
    assert sorted(postfix.subjects()) == sorted(accepted)


@pytest.mark.parametrize("mends", [False, True], ids=["reject", "normalize"])
def test_no_second_message_gets_to_postfix(
    make_server: Callable[..., Server], postfix: LenientPostfix, mends: bool
) -> None:
    cases = list(zip(VARIANTS[::5], itertools.cycle(WAYS), strict=False))
    assert len(cases) >= 30
    nothing_gets_through(relay(make_server, mends, postfix.port), postfix, cases)


@pytest.mark.long
@pytest.mark.parametrize("mends", [False, True], ids=["reject", "normalize"])
def test_no_variant_in_any_way_gets_to_postfix(
    make_server: Callable[..., Server], postfix: LenientPostfix, mends: bool
) -> None:
    cases = [(variant, way) for variant in VARIANTS for way in WAYS]
    nothing_gets_through(relay(make_server, mends, postfix.port), postfix, cases)


def test_postfix_would_fall_for_it(postfix: LenientPostfix) -> None:
    """So that the tests above show something: what it is sent as it came becomes two messages."""
    with socket.create_connection(("127.0.0.1", postfix.port), timeout=PATIENCE) as connection:
        reply(connection)
        for line in (*BEGIN, b"DATA\r\n"):
            connection.sendall(line)
            reply(connection)
        connection.sendall(content_of(0, b"\n.\n") + b"QUIT\r\n")
        while connection.recv(65536):
            pass
    eventually(lambda: len(postfix.subjects()) == 2, "a message and the one that was hidden in it")
    assert sorted(postfix.subjects()) == ["first 0", "smuggled"]
