"""A message through alias, list and forward, here and elsewhere, told whole, also after a restart."""

from __future__ import annotations

import json
import poplib
import smtplib
import ssl
from collections.abc import Callable
from email.message import EmailMessage
from typing import Any

from tests.journeys.server import PASSWORD, Server
from tests.journeys.tools import PATIENCE, eventually, free_port

B_HOST = "127.0.0.2"


def _told(server: Server, what: str) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = json.loads(server.cli("trace", what, "--json"))
    return told


def _delete_all(server: Server, login: str) -> None:
    client = poplib.POP3_SSL(server.host, server.ports["pop3s"], timeout=PATIENCE)
    client.user(login)
    client.pass_(PASSWORD)
    client.retr(1)
    client.dele(1)
    client.quit()


def test_a_message_is_told_whole(make_server: Callable[..., Server], unverified: ssl.SSLContext) -> None:
    port = free_port(B_HOST)
    b = make_server("b", "mx.b.test", ["b.test"], host=B_HOST, ports={"smtp": port})
    settings = {
        "": {"workers": 2},
        "relay": {"allow_loopback": True},
        "relay.routes": {"b.test": f"smtp://{B_HOST}:{port}"},
    }
    a = make_server("a", "mx.a.test", ["a.test"], settings)
    for user in ("bea", "bob"):
        b.add_user(f"{user}@b.test")
    for user in ("ada", "ben"):
        a.add_user(f"{user}@a.test")
    a.cli("lists", "add", "news@a.test", "--owner", "ada@a.test")
    a.cli("lists", "join", "news@a.test", "ben@a.test", "bea@b.test")
    a.cli("alias", "add", "away@a.test", "bob@b.test")
    a.cli("alias", "add", "all@a.test", "ada@a.test", "news@a.test", "away@a.test")
    b.start()
    a.start()
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "ada@a.test", "all@a.test", "Told"
    message["Message-ID"] = "<told@a.test>"
    message.set_content("Where does it go?\n")
    with smtplib.SMTP(a.host, a.ports["submission"], timeout=PATIENCE) as client:
        client.starttls(context=unverified)
        client.login("ada@a.test", PASSWORD)
        client.send_message(message)
        code, refusal = client.docmd("RCPT TO:<ada@a.test>")
    assert code == 503
    id_ = refusal.decode().rpartition("(")[2].rstrip(")")
    (refused,) = _told(a, id_)
    assert refused["records"][0]["reply"].startswith("503")
    eventually(lambda: len(b.mail("bea@b.test") + b.mail("bob@b.test")) == 2, "the copies for the other")
    eventually(lambda: len(a.mail("ben@a.test")) == 1 and not a.queue(), "the copy of the list")
    _delete_all(a, "ben@a.test")
    eventually(lambda: "deleted" in a.cli("trace", "told@a.test"), "POP3's history is written behind")
    _look(a)
    a.stop()
    a.start()
    _look(a)


def _look(a: Server) -> None:
    (told,) = _told(a, "told@a.test")
    assert told["records"][0]["e"] == "accepted"
    ends = {
        one["to"]: (one["what"], one["relay"].partition("[")[0])
        for record in told["records"]
        if record["e"] == "attempt"
        for one in record["to"]
    }
    assert ends["bea@b.test"][0] == ends["bob@b.test"][0] == "relayed"
    assert ends["ada@a.test"] == ends["ben@a.test"] == ("delivered", "maildir")
    page = a.cli("trace", told["id"])
    for part in (
        "connection",
        "TLSv1.3",
        "login       ada@a.test",
        "relay_only_for_our_own: no objection",
        "<news@a.test> leads to <bea@b.test>",
        "<all@a.test> leads to <bob@b.test>",
        "<news-bounces",
        "RCPT",
        "250",
        "/maildirs/a.test/ada/new/",
        "deleted     by POP3 of <ben@a.test>",
    ):
        assert part in page, page
    assert "it waits" not in page
    assert a.cli("trace", "all@a.test") == a.cli("trace", "<TOLD@a.test>") == page
