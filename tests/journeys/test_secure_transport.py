"""DANE with a signed zone and a validating resolver, MTA-STS with a web server: what passes, what waits."""

from __future__ import annotations

import hashlib
import re
import smtplib
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mailserver.accounts.directory import SqliteDirectory
from mailserver.accounts.passwords import hash_password
from mailserver.values.address import Address
from tests.journeys.dnssec import Validating, signed
from tests.journeys.names import NameServer
from tests.journeys.server import PASSWORD, Server
from tests.journeys.tools import eventually, free_port, lacking
from tests.relay.authority import Authority, Identity

B_HOST, WEB_HOST = "127.0.0.2", "127.0.0.4"


def tlsa(identity: Identity) -> str:
    key = identity.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(key).hexdigest()


def send(server: Server, recipients: list[str], unverified: ssl.SSLContext) -> None:
    """One message each from ada."""
    with smtplib.SMTP_SSL(server.host, server.ports["submissions"], context=unverified) as client:
        client.login("ada@a.test", PASSWORD)
        for recipient in recipients:
            text = f"From: ada@a.test\r\nTo: {recipient}\r\nSubject: to {recipient}\r\n\r\nhello\r\n"
            client.sendmail("ada@a.test", [recipient], text)


def reasons(server: Server) -> dict[str, str]:
    """Why each waiting recipient waits, as the log tells it."""
    return dict(re.findall(r"to=<([^>]*)>.*status=deferred \((.*)\)", server.console()))


class Receiver:
    """A server of ours for many domains, at its own address, with a certificate of ``identity``."""

    def __init__(
        self, make_server: Callable[..., Server], folder: Path, identity: Identity, domains: list[str]
    ) -> None:
        self.port = free_port(B_HOST)
        certificate, key = identity.write(folder / "receiver-tls")
        settings = {"tls": {"certificate": str(certificate), "key": str(key)}}
        self.server = make_server("b", "mx.b.test", domains, settings, host=B_HOST, ports={"smtp": self.port})
        # Not by the command: six of them take longer than the rest of the journey.
        directory = SqliteDirectory(self.server.folder / "state" / "accounts.sqlite", domains)
        directory.open()
        secret = hash_password(PASSWORD)
        for domain in domains:
            directory.add_user(Address("bob", domain), secret)
        directory.close()
        self.server.start()

    def subjects(self, domain: str) -> list[str]:
        return [str(message["Subject"]) for message in self.server.mail(f"bob@{domain}")]


@pytest.fixture
def receiver(make_server: Callable[..., Server], tmp_path: Path) -> Callable[..., Receiver]:
    return lambda identity, domains: Receiver(make_server, tmp_path, identity, domains)


# -- DANE ------------------------------------------------------------------------------------------


@pytest.fixture
def validating(
    tmp_path: Path, zones: Callable[[dict[str, str]], NameServer]
) -> Iterator[Callable[..., Validating]]:
    started: list[Validating] = []

    def start(plain: dict[str, str], secured: dict[str, tuple[str, tuple[str, str] | None]]) -> Validating:
        anchors = []
        served = dict(plain)
        for zone, (records, spoil) in secured.items():
            head = f"@ SOA ns.{zone}. root.{zone}. 1 3600 600 86400 60\n@ NS ns.{zone}.\nns A 127.0.0.1\n"
            text, anchor = signed(tmp_path / "keys", zone, head + records, spoil)
            served[zone] = text
            anchors.append(anchor)
        name_server = zones(served)
        started.append(Validating(tmp_path / "unbound", name_server, list(served), anchors))
        return started[-1].start(next(iter(secured)))

    yield start
    for one in started:
        one.stop()


def test_dane(
    make_server: Callable[..., Server],
    receiver: Callable[..., Receiver],
    validating: Callable[..., Validating],
    unverified: ssl.SSLContext,
) -> None:
    # Expired, and of nobody's authority: with a record that names its key, it is as good as any.
    identity = Authority("Nobody").issue("elsewhere.test", expired=True)
    good, wrong = f"3 1 1 {tlsa(identity)}", f"3 1 1 {'ab' * 32}"
    domains = ["good.test", "wrong.test", "none.test", "unusable.test", "bogus.test", "plain.test"]
    peer = receiver(identity, domains)

    def records(record: str) -> str:
        host = f"@ MX 10 mx\nmx A {B_HOST}\n"
        return host + (f"_{peer.port}._tcp.mx TLSA {record}\n" if record else "")

    resolver = validating(
        {"plain.test": records(wrong).replace(" A ", " 60 A ")},
        {
            "good.test": (records(good), None),
            "wrong.test": (records(wrong), None),
            "none.test": (records(""), None),
            "unusable.test": (records(f"1 1 1 {'ab' * 32}"), None),
            "bogus.test": (records(good), (tlsa(identity), "cd" * 32)),
        },
    )
    sender = make_server(
        "a",
        "mx.a.test",
        ["a.test"],
        {
            "relay": {
                "port": peer.port,
                "nameservers": [resolver.address],
                "dnssec": True,
                "allow_loopback": True,
                "retry": ["1h"],
            }
        },
    )
    sender.add_user("ada@a.test")
    sender.start()
    send(sender, [f"bob@{domain}" for domain in domains], unverified)

    for domain in ("good.test", "none.test", "unusable.test", "plain.test"):
        eventually(lambda d=domain: peer.subjects(d) == [f"to bob@{d}"], f"mail for {domain}")
    eventually(lambda: len(reasons(sender)) == 2, "two that wait")
    waiting = reasons(sender)
    assert "TLSA" in waiting["bob@wrong.test"]
    assert "verified" in waiting["bob@bogus.test"]
    assert peer.subjects("wrong.test") == peer.subjects("bogus.test") == []
    log = sender.console()
    assert f"Verified TLS connection established to mx.good.test[{B_HOST}]:{peer.port}: TLSv1.3" in log
    assert "by DANE" in log
    assert "Untrusted TLS connection established to mx.none.test" in log


# -- MTA-STS ---------------------------------------------------------------------------------------


class Web:
    """``https://mta-sts.DOMAIN/`` for every domain of ``policies``, on port 443 of an address of its own."""

    def __init__(self, folder: Path, identity: Identity, policies: dict[str, str]) -> None:
        self.asked: list[str] = []
        web = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host = str(self.headers["Host"])
                web.asked.append(host)
                body = policies.get(host.removeprefix("mta-sts."), "").encode()
                self.send_response(200 if body and self.path == "/.well-known/mta-sts.txt" else 404)
                self.send_header("Content-Type", "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: Any) -> None:
                pass

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*identity.write(folder))
        try:
            self._server = ThreadingHTTPServer((WEB_HOST, 443), Answer)
        except PermissionError:
            lacking("port 443 of a loopback address cannot be bound; run as root")
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def test_mta_sts(
    make_server: Callable[..., Server],
    receiver: Callable[..., Receiver],
    zones: Callable[[dict[str, str]], NameServer],
    tmp_path: Path,
    unverified: ssl.SSLContext,
) -> None:
    authority = Authority()
    # A good certificate for the host of one domain only.
    identity = authority.issue("mx.good.test")
    domains = ["good.test", "name.test", "mx.test", "testing.test", "nopolicy.test"]
    peer = receiver(identity, domains)
    policy = "version: STSv1\nmode: {}\nmx: {}\nmax_age: 86400\n".format
    web = Web(
        tmp_path / "web",
        authority.issue(*[f"mta-sts.{domain}" for domain in domains]),
        {
            "good.test": policy("enforce", "*.good.test"),
            "name.test": policy("enforce", "mx.name.test"),
            "mx.test": policy("enforce", "elsewhere.test"),
            "testing.test": policy("testing", "elsewhere.test"),
        },
    )
    try:
        records = (
            f"@ 60 MX 10 mx\nmx 60 A {B_HOST}\nmta-sts 60 A {WEB_HOST}\n"
            '_mta-sts 60 TXT "v=STSv1; id=20261122"'
        )
        name_server = zones(dict.fromkeys(domains, records))
        relay = {
            "port": peer.port,
            "nameservers": [name_server.address],
            "allow_loopback": True,
            "retry": ["1h"],
            "authorities": str(authority.write(tmp_path / "ca")),
        }
        sender = make_server("a", "mx.a.test", ["a.test"], {"relay": relay})
        sender.add_user("ada@a.test")
        sender.start()
        send(sender, [f"bob@{domain}" for domain in domains], unverified)
        for domain in ("good.test", "testing.test", "nopolicy.test"):
            eventually(lambda d=domain: peer.subjects(d) == [f"to bob@{d}"], f"mail for {domain}")
        eventually(lambda: len(reasons(sender)) == 2, "two that wait")
        waiting = reasons(sender)
        assert "certificate is not for mx.name.test" in waiting["bob@name.test"]
        assert "mx.mx.test is not among the hosts" in waiting["bob@mx.test"]
        assert "by MTA-STS" in sender.console()
        assert "MTA-STS policy of nopolicy.test" in sender.console()
        kept = sorted(path.stem for path in (sender.folder / "state" / "mta-sts").iterdir())
        assert kept == ["good.test", "mx.test", "name.test", "testing.test"]
        # After a restart the policy stands, whatever DNS and the web server say.
        sender.stop()
    finally:
        web.stop()
    name_server.stop()
    answers = dict.fromkeys(["good.test", "name.test"], f"@ 60 MX 10 mx\nmx 60 A {B_HOST}")
    again = zones(answers)
    text = sender.configuration.read_text()
    sender.configuration.write_text(text.replace(name_server.address, again.address))
    sender.start()
    send(sender, ["bob@good.test", "bob@name.test"], unverified)
    eventually(lambda: peer.subjects("good.test") == ["to bob@good.test"] * 2, "mail after a restart")
    late = "certificate is not for mx.name.test"
    eventually(lambda: sender.console().count(late) == 2, "mail that waits after a restart too")
    assert peer.subjects("name.test") == []
