"""From a user of one server to users of another: submission, DNS, relay, POP3, and the reports."""

from __future__ import annotations

import re
import smtplib
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import NamedTuple, cast

import pytest

from tests.journeys.names import NameServer
from tests.journeys.server import PASSWORD, Server
from tests.journeys.tools import PATIENCE, eventually, lacking, run, tool

B_HOST, REFUSING_HOST = "127.0.0.2", "127.0.0.3"
THREE = ["bea@b.test", "ben@b.test", "bob@b.test"]
NOBODY = "nobody@refuses.test"


class _Refuses(socketserver.StreamRequestHandler):
    """A server that takes no mail for anybody."""

    def handle(self) -> None:
        self.wfile.write(b"220 mx.refuses.test ESMTP\r\n")
        for line in self.rfile:
            verb = line[:4].upper()
            if verb == b"RCPT":
                self.wfile.write(b"550 5.1.1 There is nobody of that name here\r\n")
            elif verb == b"DATA":
                self.wfile.write(b"503 5.5.1 No valid recipients\r\n")
            elif verb == b"QUIT":
                self.wfile.write(b"221 2.0.0 Bye\r\n")
                return
            else:
                self.wfile.write(b"250 mx.refuses.test\r\n")


class Pair(NamedTuple):
    """``a`` submits and relays; ``b`` receives."""

    a: Server
    b: Server


@pytest.fixture
def refusing_port() -> Iterator[int]:
    with socketserver.ThreadingTCPServer((REFUSING_HOST, 0), _Refuses) as refusing:
        refusing.daemon_threads = True
        threading.Thread(target=refusing.serve_forever, daemon=True).start()
        yield refusing.server_address[1]
        refusing.shutdown()


@pytest.fixture
def pair(
    make_server: Callable[..., Server], zones: Callable[[dict[str, str]], NameServer], refusing_port: int
) -> Pair:
    """Not started. All share one port for relay, as the world shares 25, each on its own address."""
    name_server = zones(
        {
            "a.test": "@ 60 MX 10 mx\nmx 60 A 127.0.0.1",
            "b.test": f"@ 60 MX 10 mx\nmx 60 A {B_HOST}",
            "refuses.test": f"@ 60 MX 10 mx\nmx 60 A {REFUSING_HOST}",
        }
    )
    relay = {
        "relay": {
            "port": refusing_port,
            "nameservers": [name_server.address],
            "allow_loopback": True,
            "retry": ["1s"],
        }
    }
    a = make_server("a", "mx.a.test", ["a.test"], relay)
    b = make_server("b", "mx.b.test", ["b.test"], relay, host=B_HOST, ports={"smtp": refusing_port})
    a.add_user("ada@a.test")
    for address in THREE:
        b.add_user(address)
    return Pair(a, b)


def letter(subject: str, *recipients: str) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "ada@a.test", ", ".join(recipients), subject
    message.set_content("Merhaba,\n.a line with a dot\n\nAda\n")
    return message


def submit(server: Server, message: EmailMessage, recipients: list[str], context: ssl.SSLContext) -> None:
    """By 587, STARTTLS and AUTH, as a mail client does."""
    with smtplib.SMTP(server.host, server.ports["submission"], timeout=PATIENCE) as client:
        client.starttls(context=context)
        client.login("ada@a.test", PASSWORD)
        assert client.send_message(message, to_addrs=recipients) == {}


def submit_with_swaks(server: Server, message: EmailMessage, recipients: list[str], place: Path) -> None:
    """By 465, TLS from the first byte, with Debian's swaks."""
    if run(["perl", "-MNet::SSLeay", "-e", "1"]).returncode != 0:
        lacking("swaks needs libnet-ssleay-perl for TLS")
    file = place / "letter.eml"
    file.write_bytes(message.as_bytes())
    command = [tool("swaks"), "--server", server.host, "--port", str(server.ports["submissions"])]
    command += ["--tls-on-connect", "--auth", "LOGIN", "--auth-user", "ada@a.test"]
    command += ["--auth-password", PASSWORD, "--from", "ada@a.test", "--to", ",".join(recipients)]
    done = run([*command, "--data", f"@{file}"])
    assert done.returncode == 0, done.stdout + done.stderr


def received_ids(messages: list[EmailMessage], hostname: str) -> set[str]:
    """The queue ids under which ``hostname`` took them: one for each transaction."""
    fields = [field for message in messages for field in message.get_all("Received", [])]
    return {m[1] for field in fields if (m := re.search(rf"by {hostname}\s.*?\bid (\w+)", field, re.S))}


def the_report(server: Server, login: str) -> EmailMessage:
    eventually(lambda: len(server.raw_mail(login)) > 0, f"a report for {login}")
    reports = server.mail(login)
    assert len(reports) == 1
    return reports[0]


def parts(message: EmailMessage) -> list[EmailMessage]:
    """What a multipart message, or a message/delivery-status, is made of."""
    return cast(list[EmailMessage], message.get_payload())


def check_report(report: EmailMessage, about: str) -> None:
    """RFC 3464 and RFC 6522, as the standard library's parser reads them."""
    assert report.get_content_type() == "multipart/report"
    assert report.get_param("report-type") == "delivery-status"
    assert report["Return-Path"] == "<>"
    assert report["Auto-Submitted"].startswith("auto-")
    words, status, returned = parts(report)
    assert about in words.get_content()
    assert status.get_content_type() == "message/delivery-status"
    whole, recipient = parts(status)
    assert whole["Reporting-MTA"] == "dns; mx.a.test"
    assert recipient["Final-Recipient"].split(";")[1].strip() == about
    assert recipient["Action"] == "failed"
    assert recipient["Status"].startswith("5.")
    assert "nobody of that name" in recipient["Diagnostic-Code"]
    assert recipient["Remote-MTA"] == "dns; mx.refuses.test"
    assert returned.get_content_type() in ("message/rfc822", "text/rfc822-headers")


@pytest.mark.parametrize("client", ["smtplib", "swaks"])
def test_three_recipients_in_one_transaction_and_a_report_for_the_fourth(
    pair: Pair, client: str, unverified: ssl.SSLContext, tmp_path: Path
) -> None:
    a, b = pair
    b.start()
    a.start()
    everybody = [*THREE, NOBODY]
    message = letter("to four", *everybody)
    if client == "smtplib":
        submit(a, message, everybody, unverified)
    else:
        submit_with_swaks(a, message, everybody, tmp_path)

    arrived: list[EmailMessage] = []
    for login in THREE:
        eventually(lambda login=login: bool(b.raw_mail(login)), f"mail for {login}")  # type: ignore[misc]
        (one,) = b.mail(login)
        assert one["Subject"] == "to four"
        assert one["Return-Path"] == "<ada@a.test>"
        text = one.get_content().replace("\r\n", "\n")
        assert text.rstrip("\n") == "Merhaba,\n.a line with a dot\n\nAda"  # swaks ends with one line more
        arrived.append(one)
    assert len(received_ids(arrived, r"mx\.b\.test")) == 1, "one transaction reached B"
    check_report(the_report(a, "ada@a.test"), NOBODY)
    eventually(lambda: a.queue() == [], "an empty queue")


def test_a_domain_that_does_not_exist_comes_back_at_once(pair: Pair, unverified: ssl.SSLContext) -> None:
    a, _ = pair
    a.start()
    submit(a, letter("nowhere", "x@nowhere.b.test"), ["x@nowhere.b.test"], unverified)
    report = the_report(a, "ada@a.test")
    _, recipient = parts(parts(report)[1])
    assert (recipient["Action"], recipient["Status"]) == ("failed", "5.1.2")


def test_mail_waits_for_a_stopped_server_through_our_own_restart(
    pair: Pair, unverified: ssl.SSLContext
) -> None:
    a, b = pair
    a.start()
    submit(a, letter("patience", "bea@b.test"), ["bea@b.test"], unverified)
    eventually(lambda: len(a.queue()) == 1, "one entry in the queue")
    a.stop()
    a.start()
    assert len(a.queue()) == 1
    b.start()
    eventually(lambda: bool(b.raw_mail("bea@b.test")), "the message at B", patience=90)
    eventually(lambda: a.queue() == [], "an empty queue")
    assert [m["Subject"] for m in b.mail("bea@b.test")] == ["patience"]
    assert a.raw_mail("ada@a.test") == []


def test_nobody_relays_without_a_login(pair: Pair) -> None:
    a, _ = pair
    a.start()
    with smtplib.SMTP(a.host, a.ports["smtp"], timeout=PATIENCE) as client:
        client.ehlo("stranger.test")
        client.mail("x@stranger.test")
        code, text = client.rcpt("bea@b.test")
        assert (code, text[:5]) == (550, b"5.7.1")
        code, text = client.rcpt("unknown@a.test")
        assert (code, text[:5]) == (550, b"5.1.1")
        assert client.rcpt("Postmaster")[0] == 250
    with smtplib.SMTP(a.host, a.ports["submission"], timeout=PATIENCE) as client:
        client.ehlo("client.test")
        assert not client.has_extn("auth"), "AUTH is offered only under TLS"
        assert client.mail("ada@a.test")[0] == 530
