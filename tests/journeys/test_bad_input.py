"""Bad input over a real socket: the reply RFC 5321 names or a clean close, nothing kept, the next served."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.journeys.server import Server
from tests.journeys.tools import eventually

LIMIT = 64 * 1024
START = b"EHLO c.test\r\nMAIL FROM:<x@out.test>\r\nRCPT TO:<ada@a.test>\r\nDATA\r\n"


class Case(NamedTuple):
    """``sent`` is followed by QUIT; one of ``codes`` must be among the replies."""

    name: str
    sent: bytes
    codes: tuple[bytes, ...]


CASES = [
    Case("an unknown command", b"FROBNICATE\r\n", (b"500",)),
    Case("a known one that is not served", b"TURN\r\n", (b"502",)),
    Case("a line over the limit", b"NOOP " + b"x" * 20000 + b"\r\n", (b"500", b"421")),
    Case("a line without an end", b"x" * 200000, (b"500", b"421")),
    Case("a NUL in a command", b"NO\0OP\r\n", (b"500", b"501")),
    Case("RCPT before MAIL", b"EHLO c.test\r\nRCPT TO:<ada@a.test>\r\n", (b"503",)),
    Case("MAIL before HELO", b"MAIL FROM:<x@out.test>\r\n", (b"503",)),
    Case("DATA before RCPT", b"EHLO c.test\r\nMAIL FROM:<x@out.test>\r\nDATA\r\n", (b"503", b"554")),
    Case("MAIL twice", b"EHLO c.test\r\nMAIL FROM:<x@out.test>\r\nMAIL FROM:<x@out.test>\r\n", (b"503",)),
    Case("no address", b"EHLO c.test\r\nMAIL FROM:x@out.test>\r\n", (b"501",)),
    Case("a bad parameter", b"EHLO c.test\r\nMAIL FROM:<x@out.test> FRIED=yes\r\n", (b"555",)),
    Case("SIZE over the limit", b"EHLO c.test\r\nMAIL FROM:<x@out.test> SIZE=99999999\r\n", (b"552",)),
    Case("SIZE not a number", b"EHLO c.test\r\nMAIL FROM:<x@out.test> SIZE=1_0\r\n", (b"501",)),
    Case("an argument to DATA", START.replace(b"DATA", b"DATA now"), (b"501",)),
    Case("a message over the limit", START + (b"y" * 70 + b"\r\n") * 2000 + b".\r\n", (b"552",)),
    Case("a bare LF dot", START + b"a\n.\nMAIL FROM:<evil@out.test>\r\n.\r\n", (b"550", b"554", b"500")),
    Case("a NUL in the message", START + b"Subject: nul\r\n\r\na\0b\r\n.\r\n", (b"550", b"554")),
    Case("AUTH on the open", b"EHLO c.test\r\nAUTH PLAIN AGFkYQB4\r\n", (b"502", b"503", b"530", b"538")),
]


def talk(server: Server, sent: bytes) -> list[bytes]:
    """Everything the server says to these octets, as lines; it must end, by 221 or by itself."""
    with socket.create_connection((server.host, server.ports["smtp"]), timeout=20) as client:
        said = client.recv(1000)
        assert said.startswith(b"220 ")
        try:
            client.sendall(sent)
            client.sendall(b"\r\nQUIT\r\n" if not sent.endswith(b"\n") else b"QUIT\r\n")
        except OSError:
            pass  # it hung up in the middle, as it may
        try:
            while more := client.recv(65536):
                said += more
        except ConnectionResetError:
            pass
    return said.split(b"\r\n")[:-1]


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Server:
    server = Server(
        tmp_path_factory.mktemp("strict"),
        "mx.a.test",
        ["a.test"],
        {"limits": {"message_size": f"{LIMIT // 1024} KiB"}},
    )
    server.add_user("ada@a.test")
    return server.start()


@pytest.fixture(scope="module", autouse=True)
def _end(strict: Server) -> object:
    yield
    strict.stop()
    assert "Traceback" not in strict.console(), strict.console()


def next_session_is_served(server: Server) -> None:
    said = talk(server, START + b"Subject: good\r\n\r\nok\r\n.\r\n")
    assert [line[:4] for line in said[-2:]] == [b"250 ", b"221 "]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_refused_and_nothing_is_kept(strict: Server, case: Case) -> None:
    before = len(strict.raw_mail("ada@a.test"))
    said = talk(strict, case.sent)
    assert any(line[:3] in case.codes for line in said), said
    assert strict.queue() == []
    assert len(strict.raw_mail("ada@a.test")) == before
    next_session_is_served(strict)
    eventually(lambda: len(strict.raw_mail("ada@a.test")) == before + 1, "the good message, and only that")


@pytest.mark.parametrize("end", ["close", "reset"])
def test_a_client_that_vanishes_in_the_middle_of_data_leaves_nothing(strict: Server, end: str) -> None:
    before = len(strict.raw_mail("ada@a.test"))
    client = socket.create_connection((strict.host, strict.ports["smtp"]), timeout=20)
    client.sendall(START + b"Subject: half\r\n\r\n" + b"half a message\r\n" * 2000)
    while b"354 " not in client.recv(4096):
        pass
    if end == "reset":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    next_session_is_served(strict)
    eventually(lambda: len(strict.raw_mail("ada@a.test")) == before + 1, "the good message")
    assert strict.queue() == []
    assert not any(b"Subject: half" in raw for raw in strict.raw_mail("ada@a.test"))


def test_memory_does_not_grow_with_the_message(make_server: Callable[..., Server]) -> None:
    server = make_server("big", "mx.a.test", ["a.test"], {"limits": {"message_size": "60 MiB"}})
    server.add_user("ada@a.test")
    server.start()
    next_session_is_served(server)
    eventually(lambda: len(server.raw_mail("ada@a.test")) == 1, "the first message")
    with open(f"/proc/{server.pid}/clear_refs", "w") as file:
        file.write("5")  # sets VmHWM to what is resident now (proc(5))
    before = highest_kib(server)
    with socket.create_connection((server.host, server.ports["smtp"]), timeout=60) as client:
        reader = client.makefile("rb")
        client.sendall(START)
        while not reader.readline().startswith(b"354 "):
            pass
        piece = (b"z" * 76 + b"\r\n") * 1000
        for _ in range(50_000_000 // len(piece) + 1):
            client.sendall(piece)
        client.sendall(b".\r\n")
        assert reader.readline().startswith(b"250 ")
    new = server.folder / "maildirs" / "a.test" / "ada" / "new"
    eventually(lambda: len(list(new.iterdir())) == 2, "the message of 50 MB")
    grown = highest_kib(server) - before
    assert grown < 5 * 1024, f"{grown} KiB for a message of 50 MB"


def highest_kib(server: Server) -> int:
    with open(f"/proc/{server.pid}/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))
