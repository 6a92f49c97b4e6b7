"""The ledger finds what somebody has removed by hand, and is content with what commands removed."""

from __future__ import annotations

import json
import smtplib
import sqlite3
import subprocess
from collections.abc import Callable
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Any

from mailserver.values.envelope import entry_number
from tests.journeys.server import Server
from tests.journeys.tools import PATIENCE, eventually, free_port, ours, run


def _ledger(server: Server) -> tuple[int, dict[str, Any]]:
    done: subprocess.CompletedProcess[str] = run(
        [ours("mailserver"), "--config", str(server.configuration), "ledger", "--json"]
    )
    told: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, told


def _send(server: Server, *recipients: str) -> str:
    message = EmailMessage()
    message["From"], message["To"] = "ada@a.test", ", ".join(recipients)
    message.set_content("x\n")
    with smtplib.SMTP(server.host, server.ports["smtp"], timeout=PATIENCE) as client:
        client.ehlo()
        client.mail("ada@a.test")
        for recipient in recipients:
            assert client.rcpt(recipient)[0] == 250
        code, said = client.data(message.as_bytes(policy=SMTP))
    assert code == 250
    return said.decode().rpartition(" ")[2]


def test_what_was_removed_by_hand_is_found(make_server: Callable[..., Server]) -> None:
    settings = {
        "": {"workers": 2},
        "relay": {"allow_loopback": True, "trusted_networks": ["127.0.0.0/8"], "retry": ["1h"]},
        "relay.routes": {"b.test": f"smtp://127.0.0.1:{free_port()}"},
    }
    server = make_server("a", "mx.a.test", ["a.test"], settings)
    for user in ("ada", "ben"):
        server.add_user(f"{user}@a.test")
    server.start()
    delivered = [_send(server, "ada@a.test", "ben@a.test") for _ in range(2)]
    stays, entry, mark, removed = (_send(server, "x@b.test", "y@b.test") for _ in range(4))
    eventually(lambda: all(len(m["recipients"][0]["reason"]) for m in server.queue()), "attempts")
    eventually(lambda: len(server.mail("ada@a.test")) == len(server.mail("ben@a.test")) == 2, "deliveries")
    server.cli("queue", "remove", removed, "--yes")
    code, told = _ledger(server)
    assert (code, told["missing"], told["unproven"], told["again"]) == (0, [], [], [])
    assert (told["messages"], told["recipients"], told["waiting"], told["files"]) == (6, 12, 6, 4)
    assert told["ends"] == {"delivered": 4, "removed": 2}

    _delete(server, "DELETE FROM entry WHERE id = ?", entry_number(entry))
    _delete(server, "DELETE FROM recipient WHERE entry = ?", entry_number(entry))
    _delete(server, "DELETE FROM recipient WHERE entry = ? AND number = 1", entry_number(mark))
    (file,) = (server.folder / "maildirs/a.test/ben/new").glob(f"*Q{delivered[1]}.*")
    file.unlink()
    code, told = _ledger(server)
    assert code == 1
    assert {(one["what"], one["id"], one["to"]) for one in told["missing"]} == {
        ("recipient", entry, "x@b.test"),
        ("recipient", entry, "y@b.test"),
        ("recipient", mark, "y@b.test"),
        ("file", delivered[1], "ben@a.test"),
    }
    assert (told["waiting"], told["files"]) == (3, 3)
    assert stays in {message["id"] for message in server.queue()}


def _delete(server: Server, statement: str, *values: object) -> None:
    for path in Path(server.folder, "state", "spool").glob("spool-*.sqlite"):
        with sqlite3.connect(path, timeout=10) as db:
            if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'entry'").fetchone():
                db.execute(statement, values)
        db.close()


def test_what_a_conversion_has_brought_is_not_missed(make_server: Callable[..., Server]) -> None:
    server = make_server("a", "mx.a.test", ["a.test"])
    server.add_user("ada@a.test")
    server.start()
    for _ in range(3):
        _send(server, "ada@a.test")
    eventually(lambda: len(server.mail("ada@a.test")) == 3, "deliveries")
    server.cli("mailbox", "convert", "ada@a.test", "--to", "mbox")
    assert _ledger(server)[1]["missing"] == []
    server.cli("mailbox", "convert", "ada@a.test", "--to", "maildir")
    code, told = _ledger(server)
    assert (code, told["missing"], told["messages"]) == (0, [], 3)
    _send(server, "ada@a.test")
    eventually(lambda: len(server.mail("ada@a.test")) == 4, "the new one")
    assert _ledger(server)[1]["files"] >= 1
