"""curl, poplib, fetchmail and mpop fetch in clear, after STLS and inside TLS; unique ids stay."""

from __future__ import annotations

import json
import os
import poplib
import smtplib
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.server import PASSWORD, Server
from tests.journeys.tools import eventually, run, tool

LONG = pytest.mark.long


@pytest.fixture
def filled(make_server: Callable[..., Server]) -> Server:
    """A server with three messages for ada, and log-in in clear allowed."""
    server = make_server("a", "mx.a.test", ["a.test"], {"login": {"allow_cleartext": True}})
    server.add_user("ada@a.test")
    server.start()
    with smtplib.SMTP(server.host, server.ports["smtp"], timeout=30) as client:
        for n in range(3):
            header = f"From: c@far.test\r\nTo: ada@a.test\r\nSubject: message {n}\r\n"
            text = f"{header}\r\n.dots {n}\r\nFrom here\r\n"
            client.sendmail("c@far.test", ["ada@a.test"], text)
    eventually(lambda: len(unique_ids(server)) == 3, "three messages")
    return server


def unique_ids(server: Server) -> list[str]:
    client = poplib.POP3(server.host, server.ports["pop3"], timeout=30)
    client.user("ada@a.test")
    client.pass_(PASSWORD)
    lines = client.uidl()[1]
    client.quit()
    return [line.split()[1].decode() for line in lines]


def port(server: Server, way: str) -> int:
    return server.ports["pop3s" if way == "tls" else "pop3"]


def fetchmail(server: Server, way: str, folder: Path, *options: str) -> str:
    ssl = {"plain": "sslproto ''", "stls": "sslproto 'TLS1.2+' no sslcertck", "tls": "ssl no sslcertck"}[way]
    settings = folder / "fetchmailrc"
    settings.write_text(
        f"poll {server.host} service {port(server, way)} protocol pop3 uidl\n"
        f'  user "ada@a.test" password "{PASSWORD}" {ssl}\n'
        f"  mda \"/bin/sh -c 'cat >> {folder}/mail'\"\n"
    )
    settings.chmod(0o600)
    done = run(
        [tool("fetchmail"), "-f", str(settings), "--nosyslog", "-i", str(folder / "ids"), *options],
        env={**os.environ, "HOME": str(folder), "FETCHMAILHOME": str(folder)},
        cwd=folder,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: no new mail
    return done.stdout


def mpop(server: Server, way: str, folder: Path, *options: str) -> str:
    tls = {"plain": "tls off", "stls": "tls on\ntls_starttls on", "tls": "tls on\ntls_starttls off"}[way]
    (folder / "mail").mkdir(exist_ok=True)
    for name in ("new", "cur", "tmp"):
        (folder / "mail" / name).mkdir(exist_ok=True)
    settings = folder / "mpoprc"
    settings.write_text(
        f"account a\nhost {server.host}\nport {port(server, way)}\nuser ada@a.test\n"
        f'password "{PASSWORD}"\nauth user\n{tls}\n'
        f"{'' if way == 'plain' else 'tls_certcheck off'}\nuidls_file {folder}/ids\n"
        f"delivery maildir {folder}/mail\naccount default : a\n"
    )
    settings.chmod(0o600)
    done = run([tool("mpop"), "-C", str(settings), *options], cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("way", [pytest.param("plain", marks=LONG), "stls", pytest.param("tls", marks=LONG)])
def test_fetchmail(filled: Server, tmp_path: Path, way: str) -> None:
    for _ in range(2):  # the second time there is nothing new
        fetchmail(filled, way, tmp_path, "--keep")
        text = (tmp_path / "mail").read_text()
        assert [text.count(f"Subject: message {n}\n") for n in range(3)] == [1, 1, 1]
    assert ".dots 0" in text
    fetchmail(filled, way, tmp_path, "--nokeep", "--all")
    assert unique_ids(filled) == []


@pytest.mark.parametrize("way", ["plain", pytest.param("stls", marks=LONG), "tls"])
def test_mpop(filled: Server, tmp_path: Path, way: str) -> None:
    folder = tmp_path / "mpop"
    folder.mkdir()
    for _ in range(2):
        mpop(filled, way, folder, "--keep=on")
        assert len(list((folder / "mail" / "new").iterdir())) == 3
    (folder / "ids").unlink()
    mpop(filled, way, folder, "--keep=off")
    assert unique_ids(filled) == []
    visits: list[Any] = []

    def written() -> bool:
        visits[:] = json.loads(filled.cli("mailbox", "history", "ada@a.test", "--json"))
        return any(visit["deleted"] for visit in visits)

    eventually(written, "the history")
    assert (visits[0]["deleted"], visits[0]["fetched"], len(visits[0]["deleted_ids"])) == (3, 3, 3)
    assert visits[0]["tls"] is (way != "plain")
    assert visits[0]["client"] == "127.0.0.1"


@pytest.mark.parametrize("way", [pytest.param("plain", marks=LONG), pytest.param("stls", marks=LONG), "tls"])
def test_curl(filled: Server, way: str) -> None:
    scheme = "pop3s" if way == "tls" else "pop3"
    options = {"plain": [], "stls": ["--ssl-reqd", "-k"], "tls": ["-k"]}[way]
    for number in range(1, 4):
        url = f"{scheme}://{filled.host}:{port(filled, way)}/{number}"
        done = run([tool("curl"), "-sS", "--user", f"ada@a.test:{PASSWORD}", *options, url])
        assert done.returncode == 0, done.stderr
        assert f"Subject: message {number - 1}\n" in done.stdout
        assert f"\n.dots {number - 1}" in done.stdout


@pytest.mark.parametrize("way", [pytest.param("plain", marks=LONG), "stls", pytest.param("tls", marks=LONG)])
def test_poplib(filled: Server, way: str) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    client: poplib.POP3
    if way == "tls":
        client = poplib.POP3_SSL(filled.host, port(filled, way), context=context, timeout=30)
    else:
        client = poplib.POP3(filled.host, port(filled, way), timeout=30)
    if way == "stls":
        client.stls(context)
    client.user("ada@a.test")
    client.pass_(PASSWORD)
    assert client.stat()[0] == 3
    for number in range(1, 4):
        _, lines, octets = client.retr(number)
        assert f".dots {number - 1}".encode() in lines
        assert octets == int(client.list(number).split()[2])  # type: ignore[attr-defined]
    client.dele(2)
    assert client.quit().startswith(b"+OK")
    assert len(unique_ids(filled)) == 2


def test_what_is_typed_into_a_pipe_is_answered(filled: Server) -> None:
    """``printf … | nc``: everything at once, then the end of what the client says."""
    with socket.create_connection((filled.host, filled.ports["pop3"]), timeout=30) as client:
        client.sendall(f"USER ada@a.test\r\nPASS {PASSWORD}\r\nSTAT\r\nTOP 1 0\r\nQUIT\r\n".encode())
        client.shutdown(socket.SHUT_WR)
        said = b""
        while piece := client.recv(4096):
            said += piece
    assert b"\r\n+OK 3 " in said
    assert said.endswith(b"+OK Goodbye\r\n")


@LONG
def test_a_slow_reader_of_a_gigabyte_costs_little(filled: Server) -> None:
    """Under 1 MB, however long it takes; two turns, for what the first one needs stays with the process."""
    gigabyte = 2**30
    new = filled.folder / "maildirs" / "a.test" / "ada" / "new"
    name = new / f"1000000000.large,S={gigabyte},W={gigabyte}"
    name.touch()
    os.truncate(name, gigabyte)
    sizes = []
    for _ in range(2):
        with socket.create_connection((filled.host, filled.ports["pop3"]), timeout=60) as client:
            client.sendall(f"USER ada@a.test\r\nPASS {PASSWORD}\r\nRETR 1\r\n".encode())
            most, octets = 0, 0
            for _ in range(200):
                octets += len(client.recv(256 * 1024))
                time.sleep(0.01)
                most = max(most, resident(filled))
            assert octets > 10 * 2**20
        sizes.append(most)
    assert sizes[1] - sizes[0] < 2**20, sizes


def resident(server: Server) -> int:
    """Octets of memory that the server's process has now."""
    lines = Path(f"/proc/{server.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def test_unique_ids_stay(filled: Server) -> None:
    before = unique_ids(filled)
    maildir = filled.folder / "maildirs" / "a.test" / "ada"
    first, second, _ = sorted((maildir / "new").iterdir(), key=lambda path: path.name)
    first.rename(maildir / "cur" / f"{first.name}:2,")
    second.rename(maildir / "cur" / f"{second.name}:2,FRS")
    assert sorted(unique_ids(filled)) == sorted(before)
    filled.stop()
    filled.start()
    assert sorted(unique_ids(filled)) == sorted(before)
