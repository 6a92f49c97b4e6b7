"""Turkish, Persian and Ukrainian addresses and texts: submitted, kept, relayed to Postfix, read again."""

from __future__ import annotations

import base64
import email
import email.policy
import os
import poplib
import smtplib
import ssl
import tempfile
import unicodedata
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import Postfix
from tests.journeys.server import PASSWORD, Server
from tests.journeys.tools import PATIENCE, eventually, lacking, tool

PEOPLE = {
    "Turkish": ("şule.ığdır", "örnek.test", "Günaydın", "İyi günler, çok şükür: ğüşiöç ĞÜŞİÖÇ ıI iİ"),
    "Persian": ("نگار", "نمونه.test", "سلام دنیا", "می‌خواهم نامه‌ای بفرستم؛ گچپژ ۱۲۳"),
    "Ukrainian": ("юлія.їжак", "приклад.test", "Доброго ранку", "Ґанок, їжак, єдність, м’ята"),
}
"""Local part, domain, subject and text."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, postfix: Postfix) -> Iterator[Server]:
    """The home of them all; what is for elsewhere goes to Postfix."""
    settings: dict[str, dict[str, Any]] = {
        "relay": {"allow_loopback": True},
        "relay.routes": {"*": f"smtp://127.0.0.1:{postfix.port}"},
    }
    domains = [domain for _, domain, _, _ in PEOPLE.values()]
    made = Server(tmp_path_factory.mktemp("alphabets") / "a", "mx.a.test", domains, settings)
    for local, domain, _, _ in PEOPLE.values():
        made.add_user(f"{local}@{domain}")
    made.start()
    yield made
    made.stop()
    assert "Traceback" not in made.console(), made.console()


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    tool("postconf", "postfix")
    if os.geteuid() != 0:
        lacking("Postfix starts as root only")
    with tempfile.TemporaryDirectory(prefix="postfix-") as folder:
        peer = Postfix(Path(folder))
        peer.start()
        yield peer
        peer.stop()


@pytest.fixture
def tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def a_label(domain: str) -> str:
    return domain.encode("idna").decode()


def letter(sender: str, to: str, subject: str, text: str) -> bytes:
    message = EmailMessage(policy=email.policy.SMTPUTF8)
    message["From"], message["To"], message["Subject"] = sender, to, subject
    message.set_content(text, cte="8bit")
    return bytes(message)


def submit(server: Server, tls: ssl.SSLContext, login: str, to: list[str], content: bytes) -> None:
    with smtplib.SMTP_SSL(server.host, server.ports["submissions"], context=tls, timeout=PATIENCE) as client:
        client.command_encoding = "utf-8"
        client.ehlo()
        client.user, client.password = login, PASSWORD
        octets = f"\0{login}\0{PASSWORD}".encode()
        assert client.docmd("AUTH", f"PLAIN {base64.b64encode(octets).decode()}")[0] == 235
        code, answer = client.mail(login, ["SMTPUTF8", "BODY=8BITMIME"])
        assert code == 250, answer
        for one in to:
            assert client.rcpt(one)[0] == 250, one
        code, answer = client.data(content)
        assert code == 250, answer


def read(server: Server, tls: ssl.SSLContext, login: str) -> list[EmailMessage]:
    """The mailbox by a POP3 client that reads UTF-8 (RFC 6856)."""
    client = poplib.POP3_SSL(server.host, server.ports["pop3s"], context=tls, timeout=PATIENCE)
    client.encoding = "utf-8"
    client.utf8()
    client.user(login)
    client.pass_(PASSWORD)
    raw = [b"\r\n".join([*client.retr(n + 1)[1], b""]) for n in range(client.stat()[0])]
    client.quit()
    return [email.message_from_bytes(octets, policy=email.policy.SMTPUTF8) for octets in raw]


@pytest.mark.parametrize("alphabet", PEOPLE)
def test_a_text_comes_back_as_it_was_sent(server: Server, tls: ssl.SSLContext, alphabet: str) -> None:
    """By U-label, A-label and another composition of the same letters: one mailbox, one message."""
    local, domain, subject, text = PEOPLE[alphabet]
    me = f"{local}@{domain}"
    decomposed = unicodedata.normalize("NFD", me)
    submit(server, tls, me, [me, f"{local}@{a_label(domain)}", decomposed], letter(me, me, subject, text))
    eventually(lambda: len(read(server, tls, me)) > 0, "the message")
    (message,) = read(server, tls, f"{local}@{a_label(domain)}")
    assert message["Subject"] == subject
    assert str(message["From"]) == me
    assert message.get_content().rstrip("\r\n") == text
    assert " with UTF8SMTPSA id " in str(message["Received"])


@pytest.mark.parametrize("alphabet", PEOPLE)
def test_a_text_goes_through_postfix(
    server: Server, postfix: Postfix, tls: ssl.SSLContext, alphabet: str
) -> None:
    local, domain, subject, text = PEOPLE[alphabet]
    me, there = f"{local}@{domain}", f"{local}@bench.test"
    submit(server, tls, me, [there], letter(me, there, subject, text))

    def arrived() -> list[EmailMessage]:
        paths = list(postfix.new.glob("*")) if postfix.new.exists() else []
        read = [email.message_from_bytes(path.read_bytes(), policy=email.policy.SMTPUTF8) for path in paths]
        return [message for message in read if message["Subject"] == subject]

    eventually(lambda: len(arrived()) == 1, "the message in Postfix's mailbox")
    (message,) = arrived()
    assert str(message["From"]) == me
    assert message["Return-Path"] == f"<{me}>"
    assert message.get_content().rstrip("\r\n") == text
    assert "UTF8SMTP" in str(message["Received"])


def test_a_stranger_says_smtputf8_where_it_is_needed(server: Server) -> None:
    local, domain, _, _ = PEOPLE["Ukrainian"]
    with smtplib.SMTP(server.host, server.ports["smtp"], timeout=PATIENCE) as client:
        client.command_encoding = "utf-8"
        client.ehlo("far.test")
        assert client.mail("carol@far.test")[0] == 250
        assert client.rcpt(f"{local}@{domain}")[0] == 553
        client.rset()
        assert client.mail("carol@far.test", ["SMTPUTF8"])[0] == 250
        assert client.rcpt(f"nobody@{a_label(domain)}")[0] == 550
        assert client.rcpt(f"{local}@{a_label(domain)}")[0] == 250
