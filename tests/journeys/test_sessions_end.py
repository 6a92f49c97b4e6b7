"""What a session leaves in memory when its connection ends: nothing, with Python's collector off."""

from __future__ import annotations

import json
import poplib
import signal
import smtplib
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.server import PASSWORD, Server
from tests.journeys.tools import PATIENCE, eventually

pytestmark = pytest.mark.journey

ADA = "ada@example.test"
TIMES = 5
CONTENT = f"From: <{ADA}>\r\nSubject: x\r\n\r\nhello\r\n"

WATCHED = """
import gc, json, os, signal, sys
from collections import Counter
from pathlib import Path
from twisted.internet import reactor
from mailserver import config
from mailserver.service import MailServer

server = MailServer(config.load(Path(sys.argv[1])), reactor)
server.startService()
reactor.addSystemEventTrigger("before", "shutdown", server.stopService)
gc.disable()
KINDS = "SMTPReceiver SmtpServer Pop3Session Pop3Server Pop3Mail Reading Connection Server".split()
KINDS += ["SMTPSession"]  # of the relay

def tell():
    counts = Counter(type(one).__name__ for one in gc.get_objects() if type(one).__name__ in KINDS)
    house = server._house
    smtp = [f.settings.intake.group for f in house.doors.factories if hasattr(f.settings, "intake")]
    groups = [house.store._maildirs.batches._group, house.spool._group, *smtp]
    told = {"alive": counts, "groups": [one is house.group_commit for one in groups]}
    told["threshold"] = gc.get_threshold()[0]
    Path("told.new").write_text(json.dumps(told))
    os.rename("told.new", "told")

signal.signal(signal.SIGUSR2, lambda *_: reactor.callFromThread(tell))
reactor.run()
"""


class Watched(Server):
    """The server in a process that counts what is alive."""

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-c", WATCHED, str(self.configuration)]

    def told(self) -> dict[str, Any]:
        told = self.folder / "told"
        told.unlink(missing_ok=True)
        assert self.process is not None
        self.process.send_signal(signal.SIGUSR2)
        end = time.monotonic() + PATIENCE
        while not told.exists() and time.monotonic() < end:
            time.sleep(0.02)
        found: dict[str, Any] = json.loads(told.read_text())
        return found

    def alive(self) -> dict[str, int]:
        """By kind, once the last connection is gone."""
        end = time.monotonic() + PATIENCE / 4
        while (found := self.told()["alive"]) and time.monotonic() < end:
            time.sleep(0.1)
        return dict(found)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    made = Watched(folder, "mx.example.test", ["example.test"], {"login": {"allow_cleartext": True}})
    made.start()
    made.add_user(ADA)
    smtp(made)
    assert not made.alive()
    yield made
    made.stop()


def tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def smtp(server: Server, listener: str = "smtp", how: str = "") -> None:
    if how == "implicit":
        client: smtplib.SMTP = smtplib.SMTP_SSL("127.0.0.1", server.ports[listener], context=tls())
    else:
        client = smtplib.SMTP("127.0.0.1", server.ports[listener])
    if how == "starttls":
        client.starttls(context=tls())
    if listener != "smtp":
        client.login(ADA, PASSWORD)
    client.sendmail(ADA, ADA, CONTENT)
    client.quit()


def pop3(server: Server, listener: str = "pop3", how: str = "") -> None:
    if how == "implicit":
        client: poplib.POP3 = poplib.POP3_SSL("127.0.0.1", server.ports[listener], context=tls())
    else:
        client = poplib.POP3("127.0.0.1", server.ports[listener])
    if how == "stls":
        client.stls(context=tls())
    client.user(ADA)
    client.pass_(PASSWORD)
    client.uidl()
    client.retr(1)
    client.quit()


def vanish(server: Server, listener: str, *lines: bytes, how: str = "") -> None:
    """A client that says something and is gone."""
    with socket.create_connection(("127.0.0.1", server.ports[listener])) as client:
        if how == "implicit":
            client = tls().wrap_socket(client)
        client.recv(1000)
        for line in lines:
            client.sendall(line)
            client.recv(1000)
            if line in (b"STARTTLS\r\n", b"STLS\r\n"):
                client = tls().wrap_socket(client)
        client.close()


def stammer(server: Server, listener: str, *lines: bytes) -> None:
    """A client whose handshake is none."""
    with socket.create_connection(("127.0.0.1", server.ports[listener])) as client:
        for line in lines:
            client.recv(1000)
            client.sendall(line)
        client.recv(1000)
        client.sendall(b"\x16\x03\x01\x00\x05hello")
        while client.recv(1000):
            pass


def meet(server: Server) -> None:
    """Clients that wait in vain for a maildrop in use, and are gone."""
    with socket.create_connection(("127.0.0.1", server.ports["pop3"])) as first:
        first.recv(1000)
        for line in (*LOGIN, b"DELE 1\r\n"):  # who has marked something gives way to nobody
            first.sendall(line)
            first.recv(1000)
        others = [socket.create_connection(("127.0.0.1", server.ports["pop3"])) for _ in range(3)]
        for other in others:
            other.sendall(b"".join(LOGIN))
        time.sleep(0.5)
        for other in others:
            other.close()


EHLO, MAIL = b"EHLO me\r\n", b"MAIL FROM:<a@b.test>\r\n"
LOGIN = f"USER {ADA}\r\n".encode(), f"PASS {PASSWORD}\r\n".encode()
SESSIONS: dict[str, Callable[[Server], None]] = {
    "smtp": smtp,
    "smtp, STARTTLS": lambda server: smtp(server, how="starttls"),
    "submission": lambda server: smtp(server, "submission", "starttls"),
    "submissions": lambda server: smtp(server, "submissions", "implicit"),
    "smtp, gone": lambda server: vanish(server, "smtp", EHLO, MAIL),
    "smtp, gone under TLS": lambda server: vanish(server, "smtp", EHLO, b"STARTTLS\r\n", EHLO, MAIL),
    "submissions, gone": lambda server: vanish(server, "submissions", EHLO, how="implicit"),
    "pop3": pop3,
    "pop3, STLS": lambda server: pop3(server, how="stls"),
    "pop3s": lambda server: pop3(server, "pop3s", "implicit"),
    "pop3, gone": lambda server: vanish(server, "pop3", *LOGIN, b"UIDL\r\n"),
    "pop3, gone under TLS": lambda server: vanish(server, "pop3", b"STLS\r\n", *LOGIN, b"UIDL\r\n"),
    "pop3, in use": meet,
    "smtp, no handshake": lambda server: stammer(server, "smtp", EHLO, b"STARTTLS\r\n"),
    "pop3, no handshake": lambda server: stammer(server, "pop3", b"STLS\r\n"),
    "pop3s, gone": lambda server: vanish(server, "pop3s", *LOGIN, how="implicit"),
}


@pytest.mark.parametrize("kind", SESSIONS)
def test_a_session_leaves_nothing_behind(server: Watched, kind: str) -> None:
    for _ in range(TIMES):
        SESSIONS[kind](server)
    assert server.alive() == {}


def test_a_relay_session_leaves_nothing_behind(tmp_path: Path) -> None:
    hop = Server(tmp_path / "hop", "mx.far.test", ["far.test"])
    relay = {"trusted_networks": ["127.0.0.0/8"], "allow_loopback": True}
    routes = {"*": f"smtp://127.0.0.1:{hop.ports['smtp']}"}
    made = Watched(
        tmp_path / "watched", "mx.example.test", ["example.test"], {"relay": relay, "relay.routes": routes}
    )
    hop.start()
    made.start()
    try:
        hop.add_user("bob@far.test")
        with smtplib.SMTP("127.0.0.1", made.ports["smtp"]) as client:
            client.sendmail(ADA, "bob@far.test", CONTENT)
        eventually(lambda: len(hop.raw_mail("bob@far.test")) == 1, "the message")
        assert made.told()["alive"]["SMTPSession"] == 1  # it waits for more
        hop.stop()
        assert made.alive() == {}
    finally:
        made.stop()
        hop.stop()


def test_the_rooms_wait_for_the_same_transactions(server: Watched) -> None:
    told = server.told()
    assert told["groups"] == [True] * 5  # Maildir, spool, and three listeners that take mail
    assert told["threshold"] > 700
