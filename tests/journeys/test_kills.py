"""`kill -9` at each phase of a relay: nothing is lost, and doubled only what a peer took unheard."""

from __future__ import annotations

import smtplib
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.journeys.names import NameServer
from tests.journeys.scripted import Scripted
from tests.journeys.server import Server
from tests.journeys.tools import PATIENCE, eventually
from tests.relay.authority import Authority

PHASES = ["CONNECT", "EHLO", "STARTTLS", "HANDSHAKE", "MAIL", "RCPT", "DATA", "CONTENT", "."]
LARGE = 5_000_000
"""Octets of content that no socket's buffers hold: the server is killed with half of it sent."""
WITH_TLS = "250-peer.test\r\n250-STARTTLS\r\n250-PIPELINING\r\n250 8BITMIME"


class Stopper:
    """Lets one command of the peer's wait until the server that said it is dead."""

    def __init__(self, peer: Scripted) -> None:
        self.met, self._go_on = threading.Event(), threading.Event()
        self._peer = peer
        self._phase = ""
        peer.met = self._meets

    def arm(self, phase: str) -> None:
        self._phase = phase
        self.met.clear()
        self._go_on.clear()

    def release(self) -> None:
        self._go_on.set()

    def _meets(self, verb: str) -> None:
        if verb == self._phase:
            self._phase = ""
            self.met.set()
            self._go_on.wait(PATIENCE)


@pytest.mark.parametrize("phases", [["."], pytest.param(PHASES, marks=pytest.mark.long)], ids=["one", "all"])
def test_a_kill_at_each_phase_loses_nothing(
    make_server: Callable[..., Server], phases: list[str], tmp_path: Path
) -> None:
    """The content is taken by the peer in the last phase alone: there its 250 has not been read."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*Authority().issue("peer.test").write(tmp_path / "peer-tls"))
    peer = Scripted(tls=tls, EHLO=WITH_TLS, STARTTLS="220 go")
    peer.hangs_up = True
    stopper = Stopper(peer)
    relay = {"retry": ["1s"], "trusted_networks": ["127.0.0.1"]}
    routes = {"relay.routes": {"*": f"smtp://127.0.0.1:{peer.port}"}}
    server = make_server("a", "mx.a.test", ["a.test"], {"relay": relay, **routes})
    try:
        for phase in phases:
            server.start()
            eventually(lambda: server.queue() == [], "what was killed before")
            stopper.arm(phase)
            _inject(server, f"at {phase}", "x" * 70 * (LARGE // 70 if phase == "CONTENT" else 1))
            assert stopper.met.wait(PATIENCE), f"the peer never met {phase}"
            server.kill()
            stopper.release()
        # Answered by 250 and not recorded: the answer and the kill come together.
        server.start()
        eventually(lambda: server.queue() == [], "what was killed before")
        peer.replies["."] = lambda subject: _killing(server, peer, subject)
        _inject(server, "after 250")
        eventually(lambda: server.process is not None and server.process.poll() is not None, "the last kill")
        peer.replies["."] = "250 2.0.0 ok"
        server.start()
        subjects = [*(f"at {phase}" for phase in phases), "after 250"]
        eventually(lambda: all(peer.taken[subject] for subject in subjects), f"all of them: {peer.taken}")
        eventually(lambda: server.queue() == [], "an empty queue")
        before = [f"at {phase}" for phase in phases if phase != "."]
        assert {subject: peer.taken[subject] for subject in before} == dict.fromkeys(before, 1)
        # The peer had taken these, and nobody had read that it did: no protocol can know better.
        assert peer.taken["at ."] == 2
        assert 1 <= peer.taken["after 250"] <= 2
    finally:
        stopper.release()
        peer.stop()


def test_a_kill_while_names_are_looked_up_loses_nothing(
    make_server: Callable[..., Server], zones: Callable[[dict[str, str]], NameServer]
) -> None:
    peer = Scripted()
    names = zones({"b.test": "@ 60 MX 10 mx\nmx 60 A 127.0.0.1"})
    relay = {
        "retry": ["1s"],
        "trusted_networks": ["127.0.0.1"],
        "port": peer.port,
        "nameservers": [names.address],
        "allow_loopback": True,
    }
    server = make_server("a", "mx.a.test", ["a.test"], {"relay": relay}).start()
    try:
        names.stop()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
            deaf.bind(("127.0.0.1", names.port))
            deaf.settimeout(PATIENCE)
            _inject(server, "at DNS")
            assert b"\x01b\x04test" in deaf.recv(512).lower()
            server.kill()
        names.start()
        server.start()
        eventually(lambda: server.queue() == [], "an empty queue")
        assert peer.taken["at DNS"] == 1
    finally:
        peer.stop()


def _killing(server: Server, peer: Scripted, subject: str) -> str:
    if subject == "after 250" and not peer.taken[subject]:
        threading.Timer(0.0, server.kill).start()
    return "250 2.0.0 ok"


def _inject(server: Server, subject: str, text: str = "hello") -> None:
    lines = "\r\n".join([text[start : start + 70] for start in range(0, len(text), 70)])
    with smtplib.SMTP(server.host, server.ports["smtp"], timeout=PATIENCE) as client:
        client.sendmail(
            "ada@a.test", ["bob@b.test"], f"From: ada@a.test\r\nSubject: {subject}\r\n\r\n{lines}\r\n"
        )
