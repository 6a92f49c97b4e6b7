"""Sending, as a user and an operator see it: reports in a language, what is not tried again, orders, why."""

from __future__ import annotations

import json
import smtplib
import ssl
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from typing import Any, cast

import pytest

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
