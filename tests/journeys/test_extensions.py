"""Extensions by real clients: LMTP, BDAT from Exim, reports of success, later release."""

from __future__ import annotations

import os
import random
import shutil
import smtplib
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.journeys.server import PASSWORD, Server
from tests.journeys.tools import EXIM, eventually, lacking, run, tool

MESSAGE = "From: carol@c.test\nSubject: by {how}\n\n.a dot at the beginning\n"


@pytest.fixture
def lmtp(make_server: Callable[..., Server], tmp_path: Path) -> tuple[Server, Path]:
    """A server for ``a.test`` with an LMTP socket."""
    path = tmp_path / "lmtp"
    server = make_server("a", "mx.a.test", ["a.test"], settings={"listen": {"lmtp": f"unix:{path}"}})
    for name in ("ada", "ali"):
        server.add_user(f"{name}@a.test")
    return server.start(), path


def test_lmtp_has_a_reply_for_each_recipient(lmtp: tuple[Server, Path]) -> None:
    server, path = lmtp
    with smtplib.LMTP(str(path)) as client:
        client.ehlo("front.a.test")
        assert client.has_extn("chunking")
        client.mail("carol@c.test")
        assert [client.rcpt(f"{name}@a.test")[0] for name in ("ada", "nobody", "ali")] == [250, 550, 250]
        assert client.rcpt("x@elsewhere.test")[0] == 550
        client.putcmd("data")
        assert client.getreply()[0] == 354
        client.send(
            MESSAGE.format(how="LMTP").replace("\n.", "\n..").replace("\n", "\r\n").encode() + b".\r\n"
        )
        assert [client.getreply()[0] for _ in range(2)] == [250, 250]
        assert client.noop()[0] == 250
    for name in ("ada", "ali"):
        eventually(lambda name=name: len(server.mail(f"{name}@a.test")) == 1, f"{name}'s mail")  # type: ignore[misc]
    (message,) = server.mail("ada@a.test")
    assert message.get_content() == ".a dot at the beginning\r\n"
    assert " with LMTP id " in message["Received"]


def test_lmtp_by_postfix(lmtp: tuple[Server, Path]) -> None:
    server, path = lmtp
    source = [tool("smtp-source", "postfix"), "-L", "-s", "3", "-m", "30", "-l", "2000"]
    done = run([*source, "-f", "carol@c.test", "-t", "ada@a.test", f"unix:{path}"])
    assert done.returncode == 0, done.stderr
    eventually(lambda: len(server.mail("ada@a.test")) == 30, "thirty messages")


def _log(folder: Path) -> str:
    path = folder / "mainlog"
    return path.read_text() if path.exists() else ""


def _exim(folder: Path, port: int) -> list[str]:
    """The command of an Exim that sends everything by SMTP to ``port``, by BDAT where it is offered."""
    if not EXIM.exists():
        lacking(f"{EXIM} is not there; .ci/run unpacks exim4-daemon-light, which Debian keeps from Postfix")
    if os.getuid() != 0:
        lacking("Exim obeys a configuration of one's own only from root")
    # It drops root's rights to send, to a user that its package makes: no folder of root's will do.
    shutil.chown(folder, "Debian-exim", "Debian-exim")
    configuration = folder / "exim.conf"
    configuration.write_text(
        f"""
primary_hostname = exim.c.test
spool_directory = {folder}/spool
log_file_path = {folder}/%slog
never_users =
exim_user = Debian-exim
exim_group = Debian-exim
keep_environment =
exim_path = {EXIM}
begin routers
out:
  driver = manualroute
  route_list = * 127.0.0.1
  self = send
  transport = out
begin transports
out:
  driver = smtp
  port = {port}
  hosts_avoid_tls = *
  hosts_try_chunking = *
  allow_localhost
"""
    )
    return [str(EXIM), "-C", str(configuration)]


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="exim-") as name:
        yield Path(name)


def test_chunks_by_exim(server: Server, folder: Path) -> None:
    body = "".join(f"{n} {'x' * random.Random(n).randrange(70)}\n.\n" for n in range(20_000))
    exim = _exim(folder, server.ports["smtp"])
    text = MESSAGE.format(how="BDAT") + body
    done = run([*exim, "-odf", "-f", "carol@c.test", "-oi", "ada@a.test"], input=text)
    assert done.returncode == 0, done.stderr + _log(folder)
    eventually(lambda: "Completed" in _log(folder), "Exim's delivery")
    assert " K C=" in _log(folder), _log(folder)  # K: it came by BDAT
    eventually(lambda: len(server.mail("ada@a.test")) == 1, "Exim's message")
    (message,) = server.mail("ada@a.test")
    assert message["Subject"] == "by BDAT"
    assert message.get_content().replace("\r\n", "\n") == ".a dot at the beginning\n" + body


def test_a_client_that_closes_its_side_first_hears_the_end(server: Server) -> None:
    for end in (b"DATA\r\nSubject: x\r\n\r\n.\r\n", b"BDAT 14 LAST\r\nSubject: x\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.ports["smtp"]), timeout=30) as client:
            client.sendall(
                b"EHLO c.test\r\nMAIL FROM:<carol@c.test>\r\nRCPT TO:<ada@a.test>\r\n" + end + b"QUIT\r\n"
            )
            client.shutdown(socket.SHUT_WR)
            said = b""
            while octets := client.recv(1 << 16):
                said += octets
        assert b"queued as" in said
        assert said.endswith(b"221 2.0.0 Bye\r\n")


def test_a_user_hears_of_success(server: Server) -> None:
    with smtplib.SMTP("127.0.0.1", server.ports["smtp"]) as client:
        client.ehlo("c.test")
        client.mail("ada@a.test", ["RET=HDRS", "ENVID=one"])
        client.rcpt("ada@a.test", ["NOTIFY=SUCCESS"])
        assert client.data(MESSAGE.format(how="SMTP"))[0] == 250
    eventually(lambda: len(server.mail("ada@a.test")) == 2, "the message and the report")
    report = next(m for m in server.mail("ada@a.test") if m.get_content_type() == "multipart/report")
    status = report.get_payload(1).get_payload()
    assert status[0]["Original-Envelope-Id"] == "one"
    assert [block["Action"] for block in status[1:]] == ["delivered"]


def test_a_message_waits_for_its_release(server: Server, unverified: ssl.SSLContext) -> None:
    with smtplib.SMTP_SSL("127.0.0.1", server.ports["submissions"], context=unverified) as client:
        client.login("ada@a.test", PASSWORD)
        assert client.has_extn("futurerelease")
        client.mail("ada@a.test", ["HOLDFOR=5"])
        client.rcpt("ada@a.test")
        assert client.data("From: ada@a.test\nSubject: later\n\nx\n")[0] == 250
    (waiting,) = server.queue()
    assert waiting["release_at"]
    assert not server.mail("ada@a.test")
    eventually(lambda: len(server.mail("ada@a.test")) == 1, "its release")
    assert server.queue() == []


def test_many_small_chunks_cost_no_memory(server: Server) -> None:
    def peak() -> int:
        lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

    with socket.create_connection(("127.0.0.1", server.ports["smtp"])) as client:
        client.recv(1000)
        client.sendall(b"EHLO c.test\r\nMAIL FROM:<carol@c.test>\r\nRCPT TO:<ada@a.test>\r\n")
        client.sendall(b"BDAT 15\r\nSubject: x\r\n\r\n" + b"x")
        chunk = b"BDAT 1\r\nx" * 98 + b"BDAT 2\r\n\r\n"
        before = peak()
        client.setblocking(False)
        sent, piece = 0, b""
        while sent < 200_000 or piece:
            if not piece:
                piece, sent = chunk, sent + 99
            try:
                piece = piece[client.send(piece) :]
            except BlockingIOError:
                pass
            try:
                client.recv(1 << 20)
            except BlockingIOError:
                pass
        client.setblocking(True)
        client.settimeout(30)
        client.sendall(b"BDAT 0 LAST\r\nQUIT\r\n")
        said = b""
        while octets := client.recv(1 << 16):
            said = (said + octets)[-2000:]
    assert b"queued as" in said
    assert peak() - before < 8 * 1024, "KiB"
