"""Our MDA hands mail to Dovecot's LMTP server: who exists there gets it, who does not is reported."""

from __future__ import annotations

import os
import shutil
import smtplib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.journeys.server import Server
from tests.journeys.tools import eventually, tool

NOBODY = 65534


class Dovecot:
    """Debian's, with one user, ``ada@dove.test``, listening on a socket."""

    def __init__(self, folder: Path) -> None:
        tool("/usr/lib/dovecot/lmtp", "dovecot-lmtpd")
        self.socket = folder / "lmtp"
        self.mail = folder / "mail"
        self.mail.mkdir(mode=0o700)
        os.chown(self.mail, NOBODY, NOBODY)
        (folder / "users").write_text(f"ada@dove.test::{NOBODY}:{NOBODY}::{self.mail}\n")
        self._settings = folder / "dovecot.conf"
        self._settings.write_text(
            f"protocols = lmtp\nbase_dir = {folder}/run\nlog_path = {folder}/log\nssl = no\n"
            f"mail_location = maildir:{self.mail}/Maildir\nfirst_valid_uid = 1\nhostname = dove.test\n"
            f"postmaster_address = postmaster@dove.test\n"
            f"passdb {{\n driver = passwd-file\n args = {folder}/users\n}}\n"
            f"userdb {{\n driver = passwd-file\n args = {folder}/users\n}}\n"
            f"service lmtp {{\n unix_listener {self.socket} {{\n  mode = 0666\n }}\n}}\n"
            "service anvil {\n chroot =\n}\nservice stats {\n chroot =\n}\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen([tool("dovecot", "dovecot-core"), "-F", "-c", str(self._settings)])
        eventually(self.socket.exists, "Dovecot's socket")

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)

    def messages(self) -> list[bytes]:
        return [path.read_bytes() for path in (self.mail / "Maildir" / "new").glob("*")]


@pytest.fixture
def dovecot() -> Iterator[Dovecot]:
    folder = Path(
        tempfile.mkdtemp(prefix="lmtp-", dir="/tmp")
    )  # a socket's path is short, and all can go there
    folder.chmod(0o755)
    made = Dovecot(folder)
    yield made
    made.stop()
    shutil.rmtree(folder)


@pytest.mark.journey
@pytest.mark.skipif(os.geteuid() != 0, reason="Dovecot starts as root only")
def test_a_domain_whose_store_is_dovecot(make_server: Callable[..., Server], dovecot: Dovecot) -> None:
    server = make_server("a", "mx.a.test", ["a.test", "dove.test"], {"relay": {"retry": ["1s"]}})
    server.add_user("bob@a.test")
    where = f"lmtp:unix:{dovecot.socket}"
    server.cli("domain", "set", "dove.test", "--deliver", where, "--catch-all", "*")
    server.start()
    with smtplib.SMTP(server.host, server.ports["smtp"], timeout=30) as client:
        client.sendmail("bob@a.test", ["ada@dove.test"], "Subject: before it is up\r\n\r\n.\r\n..\r\n")
    eventually(lambda: "no connection to the store" in server.console(), "a reason")
    dovecot.start()
    eventually(lambda: len(dovecot.messages()) == 1, "the message, once Dovecot is there")
    (kept,) = dovecot.messages()
    assert b"Subject: before it is up\n" in kept.replace(b"\r\n", b"\n")
    assert kept.replace(b"\r\n", b"\n").endswith(b"\n\n.\n..\n")
    assert b"Return-Path: <bob@a.test>" in kept
    with smtplib.SMTP(server.host, server.ports["smtp"], timeout=30) as client:
        client.sendmail("bob@a.test", ["ada@dove.test", "eve@dove.test"], "Subject: two\r\n\r\nx\r\n")
    eventually(lambda: len(server.raw_mail("bob@a.test")) == 1, "the report about eve")
    (report,) = server.raw_mail("bob@a.test")
    assert b"eve@dove.test" in report
    assert b"User doesn't exist" in report
    assert len(dovecot.messages()) == 2
    assert server.queue() == []
