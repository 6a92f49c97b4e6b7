"""fetchmail and mpop (Debian's) fetch in clear, after STLS and inside TLS; unique ids stay what they are."""

from __future__ import annotations

import json
import os
import poplib
import smtplib
from collections.abc import Callable
from pathlib import Path

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
    visits = []

    def written() -> bool:
        visits[:] = json.loads(filled.cli("mailbox", "history", "ada@a.test", "--json"))
        return any(visit["deleted"] for visit in visits)

    eventually(written, "the history")
    assert (visits[0]["deleted"], visits[0]["fetched"], len(visits[0]["deleted_ids"])) == (3, 3, 3)
    assert visits[0]["tls"] is (way != "plain")
    assert visits[0]["client"] == "127.0.0.1"


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
