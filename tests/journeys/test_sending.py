"""Sending, as a user and an operator see it: reports in a language, what is not tried again, orders, why."""

from __future__ import annotations

import json
import resource
import smtplib
import ssl
import time
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

import pytest

from tests.journeys.names import NameServer
from tests.journeys.scripted import Scripted
from tests.journeys.server import PASSWORD, Server
from tests.journeys.tools import PATIENCE, eventually, ours, run

ADA = "ada@a.test"


@pytest.fixture
def peer() -> Iterator[Scripted]:
    one = Scripted()
    yield one
    one.stop()


@pytest.fixture
def sender(make_server: Callable[..., Server], peer: Scripted) -> Callable[..., Server]:
    """A server for ``a.test`` with ``ada``, which sends everything to the peer."""

    def make(**tables: dict[str, Any]) -> Server:
        routes = {"relay.routes": {"*": f"smtp://127.0.0.1:{peer.port}"}}
        server = make_server("a", "mx.a.test", ["a.test"], {**tables, **routes})
        server.add_user(ADA)
        return server

    return make


def submit(server: Server, *to: str, subject: str = "hello") -> dict[str, tuple[int, bytes]]:
    """By ``ada``; the recipients that were refused."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    letter = EmailMessage()
    letter["From"], letter["To"], letter["Subject"] = ADA, "somebody", subject
    letter.set_content("hello\n")
    with smtplib.SMTP(server.host, server.ports["submission"], timeout=PATIENCE) as client:
        client.starttls(context=context)
        client.login(ADA, PASSWORD)
        try:
            return client.send_message(letter, to_addrs=to)
        except smtplib.SMTPRecipientsRefused as error:
            return error.recipients


def test_a_report_in_turkish_and_an_address_that_is_not_tried_again(
    sender: Callable[..., Server], peer: Scripted
) -> None:
    peer.replies["RCPT"] = "550 5.1.1 nobody of that name"
    server = sender(submission={"suppress_for": "30d"})
    server.cli("user", "set", ADA, "--language", "tr")
    server.start()
    assert submit(server, "gone@b.test") == {}
    eventually(lambda: len(server.raw_mail(ADA)) == 1, "the report")
    (report,) = server.mail(ADA)
    assert report["Subject"] == "İletiniz teslim edilemedi"
    words, status, _ = cast(list[EmailMessage], report.get_payload())
    assert "bu adda bir posta kutusu yok" in " ".join(words.get_content().split())
    assert status.get_content_type() == "message/delivery-status"
    # The second time it is said at once, to this account alone.
    refused = submit(server, "Gone@b.test")
    assert refused["Gone@b.test"][0] == 550
    assert refused["Gone@b.test"][1].startswith(b"5.1.1 <Gone@b.test>: your earlier message")
    assert peer.asked["RCPT"] == 1
    eventually(lambda: len(json.loads(server.cli("suppression", "list", "--json"))) == 1, "the list")
    (one,) = json.loads(server.cli("suppression", "list", "--json"))
    assert (one["account"], one["address"], one["status"]) == (ADA, "gone@b.test", "5.1.1")
    server.cli("suppression", "clear", "gone@b.test", "--account", ADA)
    eventually(lambda: submit(server, "gone@b.test") == {}, "the cleared address to be tried")
    again = [ours("mailserver"), "--config", str(server.configuration), "suppression", "clear", "x@b.test"]
    assert run(again).returncode == 67


def test_why_mail_waits_and_a_retry_that_counts(sender: Callable[..., Server], peer: Scripted) -> None:
    peer.replies["CONNECT"] = "421 4.3.2 too busy"
    server = sender(**{"": {"workers": 2}, "relay": {"trusted_networks": ["127.0.0.1"]}})
    server.start()
    for first in (0, 4):  # two sessions, so that both workers may have some
        with smtplib.SMTP(server.host, server.ports["smtp"], timeout=PATIENCE) as client:
            for n in range(first, first + 4):
                text = f"From: {ADA}\r\nSubject: number {n}\r\n\r\nhello\r\n"
                client.sendmail(ADA, [f"u{n}@b.test"], text)

    def reasons() -> list[str]:
        return [one["reason"] for entry in server.queue() for one in entry["recipients"]]

    eventually(lambda: len(reasons()) == 8 and all("busy" in reason for reason in reasons()), "eight delays")
    eventually(lambda: (server.folder / "state" / "control-1").exists(), "the second worker")
    told = json.loads(server.cli("queue", "why", "b.test", "--json"))
    assert told["workers"] == 2
    assert sum(one["recipients"] for one in told["waiting"]) == 8
    assert told["destination"]["hosts"] == [f"127.0.0.1:{peer.port}"]
    assert "421 4.3.2 too busy" in json.dumps(told["last"])
    page = server.cli("queue", "why", "b.test")
    assert "421 4.3.2 too busy" in page
    assert "\nwindow " in page
    walk = [ours("mailserver"), "--config", str(server.configuration), "route", "u1@b.test", "--json"]
    refused = run(walk)
    assert refused.returncode == 69
    assert not json.loads(refused.stdout)[-1]["ok"]
    # The peer is well again: an operator's retry is not answered from what we remember.
    peer.replies["CONNECT"] = "220 peer.test ESMTP"
    counts = {one["attempts"] for entry in server.queue() for one in entry["recipients"]}
    assert counts == {1}
    stages = json.loads(run(walk).stdout)
    assert "RCPT TO" in [stage["stage"] for stage in stages if stage["ok"]]
    server.cli("queue", "hold", "--recipient", "u7@b.test", "--reason", "a journey")
    done = json.loads(server.cli("queue", "retry", "b.test", "--json"))
    assert done["recipients"] == 7
    eventually(lambda: sum(peer.taken.values()) == 7, "seven messages")
    assert set(peer.taken.values()) == {1}
    (held,) = server.queue()
    assert (held["hold"], held["recipients"][0]["attempts"]) == ("a journey", 1)
    server.stop()
    server.cli("queue", "release", "--domain", "b.test")
    server.start()
    eventually(lambda: peer.taken["number 7"] == 1, "the released message")


def test_tls_that_a_host_has_given_up_is_forgotten(
    make_server: Callable[..., Server], zones: Callable[[dict[str, str]], NameServer], peer: Scripted
) -> None:
    names = zones({"b.test": "@ 60 MX 10 mx\nmx 60 A 127.0.0.1"})
    relay = {"port": peer.port, "nameservers": [names.address], "allow_loopback": True, "lost_tls": "delay"}
    server = make_server("a", "mx.a.test", ["a.test"], {"relay": relay})
    server.add_user(ADA)
    (server.folder / "state" / "tls-hosts-0.json").write_text(json.dumps({"mx.b.test": time.time()}))
    server.start()
    submit(server, "bob@b.test")
    eventually(lambda: any(one["recipients"][0]["reason"] for one in server.queue()), "a delay")
    assert "TLS" in server.queue()[0]["recipients"][0]["reason"]
    told = json.loads(server.cli("queue", "why", "b.test", "--json"))
    assert told["hosts"][0]["tls_seen"] > 0
    assert json.loads(server.cli("queue", "forget", "b.test", "--json")) == {"hosts": ["mx.b.test"]}
    server.cli("queue", "retry", "b.test")
    eventually(lambda: peer.taken["hello"] == 1, "the message in clear")


# -- faults: the message waits, and both the log and the command say why --------------------------------


def reason(server: Server) -> str:
    return str(server.queue()[0]["recipients"][0]["reason"]) if server.queue() else ""


def test_a_password_that_cannot_be_read(make_server: Callable[..., Server], peer: Scripted) -> None:
    secret = {"host": "127.0.0.1", "port": peer.port, "user": "ada", "password_file": "secret", "tls": "none"}
    server = make_server("a", "mx.a.test", ["a.test"], {'relay.routes."*"': secret})
    server.add_user(ADA)
    server.start()
    submit(server, "bob@b.test")
    eventually(lambda: bool(reason(server)), "a delay")
    assert f"{server.folder / 'secret'}: No such file or directory" in reason(server)
    assert "secret: No such file or directory" in server.console()
    assert "secret: No such file or directory" in server.cli("queue", "why", "b.test")
    assert peer.asked["MAIL"] == 0
    peer.replies["EHLO"] = "250-peer.test\r\n250 AUTH PLAIN"
    peer.replies["AUTH"] = "235 2.7.0 ok"
    (server.folder / "secret").write_text("a pass phrase\n")
    server.cli("queue", "retry", "b.test")
    eventually(lambda: peer.taken["hello"] == 1, "the message")


@pytest.mark.long
def test_a_full_disk_refuses_what_is_new_and_loses_nothing(tmp_path: Path, peer: Scripted) -> None:
    routes = {"relay.routes": {"*": f"smtp://127.0.0.1:{peer.port}"}}
    server = Server(tmp_path / "a", "mx.a.test", ["a.test"], {"relay": {"retry": ["1s"]}, **routes})
    server.add_user(ADA)
    peer.replies["RCPT"] = "451 4.3.0 later"
    server.start()
    try:
        submit(server, "bob@b.test", subject="before")
        eventually(lambda: bool(reason(server)), "a delay")
        # No file may grow any more, as on a disk without room (EFBIG and ENOSPC are one to us); the log may.
        wal = server.folder / "state" / "spool" / "spool-0.sqlite-wal"
        full = max(server.log.stat().st_size + 50_000, wal.stat().st_size)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (full, resource.RLIM_INFINITY))
        peer.replies["RCPT"] = "250 2.1.5 ok"
        codes = []
        for _ in range(40):
            try:
                submit(server, "bob@b.test", subject="x" * 60_000)
            except smtplib.SMTPDataError as error:
                codes.append(error.smtp_code)
                break
        assert codes[0] in (451, 452)
        assert "committing a message" in server.console()
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        submit(server, "bob@b.test", subject="after")
        for subject in ("before", "after"):
            eventually(lambda subject=subject: peer.taken[subject] == 1, f"the message {subject}")  # type: ignore[misc]
        eventually(lambda: server.queue() == [], "an empty queue")
        assert peer.taken["before"] == 1
    finally:
        server.kill()


@pytest.mark.long
def test_a_policy_that_cannot_be_fetched_and_names_that_nobody_knows(
    make_server: Callable[..., Server], zones: Callable[[dict[str, str]], NameServer], peer: Scripted
) -> None:
    """The domain says that it has a policy and nobody serves it: RFC 8461 §5.1 lets mail go. A name server
    that answers SERVFAIL delays."""
    names = zones(
        {
            "b.test": "@ 60 MX 10 mx\nmx 60 A 127.0.0.1\nmta-sts 60 A 127.0.0.1\n"
            '_mta-sts 60 TXT "v=STSv1; id=1"'
        }
    )
    relay = {"port": peer.port, "nameservers": [names.address], "allow_loopback": True}
    server = make_server("a", "mx.a.test", ["a.test"], {"relay": relay})
    server.add_user(ADA)
    server.start()
    submit(server, "bob@b.test")
    eventually(lambda: peer.taken["hello"] == 1, "the message")
    assert "mta-sts.b.test" in server.console()
    why = server.cli("queue", "why", "b.test")
    assert (
        "policy    the MTA-STS policy cannot be had (sts-policy-fetch-error): https://mta-sts.b.test" in why
    )
    names.stop()
    submit(server, "bob@elsewhere.test")
    eventually(lambda: bool(reason(server)), "a delay")
    assert "name server" in reason(server)
    assert "name server" in server.cli("queue", "why", "elsewhere.test")
