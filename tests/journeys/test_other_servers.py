"""Postfix, Exim and OpenSMTPD take our mail: verified where that is demanded, in clear where TLS fails."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.other_servers import Exim, OpenSMTPD, SecurePostfix
from tests.journeys.server import PASSWORD, Server
from tests.journeys.tools import eventually, run, tool
from tests.relay.authority import Authority

AUTHORITY = Authority()


@pytest.fixture
def started() -> Iterator[Callable[[Any], Any]]:
    running: list[Any] = []

    def start(peer: Any) -> Any:
        peer.start()
        running.append(peer)
        return peer

    yield start
    for peer in running:
        peer.stop()


def sent_to(
    make_server: Callable[..., Server],
    folder: Path,
    unverified: ssl.SSLContext,
    recipient: str,
    port: int,
    tls: str,
) -> Server:
    """A server of ours that has taken one message of ada's for ``recipient``, whose host is at ``port``."""
    domain = recipient.rpartition("@")[2]
    route = {"host": "127.0.0.1", "port": port, "tls": tls, "certificate_name": f"mx.{domain}"}
    relay = {"authorities": str(AUTHORITY.write(folder)), "retry": ["1s"]}
    settings = {"relay": relay, f'relay.routes."{domain}"': route}
    server = make_server("a", "mx.a.test", ["a.test"], settings)
    server.add_user("ada@a.test")
    server.start()
    with smtplib.SMTP_SSL(server.host, server.ports["submissions"], context=unverified) as client:
        client.login("ada@a.test", PASSWORD)
        text = f"From: ada@a.test\r\nTo: {recipient}\r\nSubject: x\r\n\r\n.hello\r\n"
        client.sendmail("ada@a.test", [recipient], text)
    eventually(lambda: "status=" in server.console(), "an attempt")
    return server


def test_postfix(
    make_server: Callable[..., Server],
    started: Callable[[Any], Any],
    tmp_path: Path,
    unverified: ssl.SSLContext,
) -> None:
    postfix = started(SecurePostfix(AUTHORITY.issue("mx.bench.test")))
    ours = sent_to(make_server, tmp_path, unverified, "user@bench.test", postfix.port, "required")
    eventually(lambda: len(postfix.received()) == 1, "mail in Postfix's mailbox")
    (message,) = postfix.received()
    assert message.endswith("\n.hello\n")
    assert "using TLSv1.3" in message
    assert "Verified TLS connection" in ours.console()
    assert "status=sent (250 2.0.0 Ok" in ours.console()


def test_exim(
    make_server: Callable[..., Server],
    started: Callable[[Any], Any],
    tmp_path: Path,
    unverified: ssl.SSLContext,
) -> None:
    exim = started(Exim(AUTHORITY.issue("mx.exim.test")))
    ours = sent_to(make_server, tmp_path, unverified, "bob@exim.test", exim.port, "required")
    eventually(lambda: len(exim.received()) == 1, "mail in Exim's queue")
    assert exim.received()[0].endswith(".hello\n")
    assert "X=TLS1.3" in exim.log()
    assert "Verified TLS connection" in ours.console()
    assert " OK id=" in ours.console()


def test_opensmtpd(
    make_server: Callable[..., Server],
    started: Callable[[Any], Any],
    tmp_path: Path,
    unverified: ssl.SSLContext,
) -> None:
    """Debian 12's 6.8.0 cannot sign with OpenSSL 3 (OpenSMTPD's issue 1171: "EVP lib" in its log), whoever
    the client is; OpenSSL's own tells which OpenSMTPD this is. One that does TLS must do it verified."""
    peer = started(OpenSMTPD(AUTHORITY.issue("mx.opensmtpd.test")))
    shake = [tool("openssl"), "s_client", "-starttls", "smtp", "-connect", f"127.0.0.1:{peer.port}", "-brief"]
    tls = "required" if run(shake, input="QUIT\r\n").returncode == 0 else "opportunistic"
    ours = sent_to(make_server, tmp_path, unverified, "bob@opensmtpd.test", peer.port, tls)
    eventually(lambda: len(peer.received()) == 1, "mail in OpenSMTPD's mailbox")
    assert peer.received()[0].endswith(".hello\n")
    assert "status=sent (250 2.0.0" in ours.console()
