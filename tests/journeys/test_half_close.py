"""Clients that close one side, of TCP or of TLS: they hear their answers, and nothing half is done."""

from __future__ import annotations

import base64
import poplib
import smtplib
import socket
import ssl
from collections.abc import Iterator

import pytest

from tests.journeys.server import PASSWORD, Server
from tests.journeys.tools import PATIENCE, eventually

ADA = "ada@a.test"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all."""
    made = Server(tmp_path_factory.mktemp("half-close") / "a", "mx.a.test", ["a.test"])
    made.add_user(ADA)
    made.start()
    yield made
    made.stop()
    assert "Traceback" not in made.console(), made.console()


def rest(client: socket.socket) -> bytes:
    """Everything to the end of the connection, or to its reset."""
    octets = b""
    try:
        while more := client.recv(65536):
            octets += more
    except OSError:
        pass
    return octets


def submitting(server: Server, tls: ssl.SSLContext) -> smtplib.SMTP:
    client = smtplib.SMTP_SSL(server.host, server.ports["submissions"], context=tls, timeout=PATIENCE)
    client.login(ADA, PASSWORD)
    client.mail(ADA)
    client.rcpt(ADA)
    return client


def test_pop3_answers_what_was_said_before_the_close(server: Server) -> None:
    with socket.create_connection((server.host, server.ports["pop3"]), timeout=PATIENCE) as client:
        client.sendall(b"NOOP\r\nCAPA\r\nNOOP\r\n")
        client.shutdown(socket.SHUT_WR)
        said = rest(client).split(b"\r\n")
    assert said[0].startswith(b"+OK")
    assert b"STLS" in said
    assert said[-1] == b""
    assert len([line for line in said if line.startswith((b"+OK", b"-ERR"))]) == 4


@pytest.mark.parametrize("command", ["DATA", "BDAT"])
def test_the_end_of_tls_in_the_middle_of_a_message(
    server: Server, unverified: ssl.SSLContext, command: str
) -> None:
    """What follows close_notify in clear is nobody's message (Exim's CVE-2026-45185)."""
    before = len(server.raw_mail(ADA))
    client = submitting(server, unverified)
    if command == "DATA":
        assert client.docmd("DATA")[0] == 354
        client.send(b"Subject: half\r\n\r\nhal")
    else:
        client.send(b"BDAT 30 LAST\r\nSubject: half\r\n\r\nhal")
    assert isinstance(client.sock, ssl.SSLSocket)
    with client.sock.unwrap() as plain:
        try:
            plain.sendall(b"f\r\n.\r\n" + b"x" * 30 + b"QUIT\r\n")
        except OSError:
            pass
        assert b"queued" not in rest(plain)
    assert server.queue() == []
    assert len(server.raw_mail(ADA)) == before


def test_the_end_of_tls_instead_of_quit_removes_nothing(server: Server, unverified: ssl.SSLContext) -> None:
    with smtplib.SMTP(server.host, server.ports["smtp"], timeout=PATIENCE) as client:
        client.sendmail("carol@far.test", [ADA], b"Subject: stays\r\n\r\n")
    eventually(lambda: len(server.raw_mail(ADA)) == 1, "the message")
    reader = poplib.POP3_SSL(server.host, server.ports["pop3s"], context=unverified, timeout=PATIENCE)
    reader.user(ADA)
    reader.pass_(PASSWORD)
    reader.dele(1)
    assert isinstance(reader.sock, ssl.SSLSocket)
    with reader.sock.unwrap() as plain:
        try:
            plain.sendall(b"QUIT\r\n")
        except OSError:
            pass
        assert b"+OK" not in rest(plain)
    assert len(server.raw_mail(ADA)) == 1


def test_a_credential_behind_the_end_of_tls_is_not_read(server: Server, unverified: ssl.SSLContext) -> None:
    client = smtplib.SMTP_SSL(server.host, server.ports["submissions"], context=unverified, timeout=PATIENCE)
    client.ehlo()
    response = base64.b64encode(f"\0{ADA}\0{PASSWORD}".encode())
    assert isinstance(client.sock, ssl.SSLSocket)
    with client.sock.unwrap() as plain:
        try:
            plain.sendall(b"AUTH PLAIN " + response + b"\r\n")
        except OSError:
            pass
        assert b"235" not in rest(plain)
