"""Another configuration in a running server: nobody is dropped, and it comes back unless confirmed."""

from __future__ import annotations

import json
import os
import signal
import smtplib
from collections.abc import Callable

import pytest

from tests.journeys.server import Server
from tests.journeys.tools import PATIENCE, eventually, ours, run

MISTAKES = """
hostnam = "mx.a.test"
workers = "two"
[limits]
message_size = "1 KiB"
[relay]
trusted_networks = ["0.0.0.0/0"]
warn_after = "soon"
"""


def _limit(server: Server, name: str = "smtp") -> str:
    with smtplib.SMTP(server.host, server.ports[name], timeout=PATIENCE) as client:
        client.ehlo()
        return client.esmtp_features["size"]


def _config(server: Server, *arguments: str) -> tuple[int, str, str]:
    done = run([ours("mailserver"), "--config", str(server.configuration), "config", *arguments])
    return done.returncode, done.stdout, done.stderr


@pytest.mark.long
def test_a_change_is_applied_and_taken_back(make_server: Callable[..., Server]) -> None:
    server = make_server("a", "mx.a.test", ["a.test"], {"": {"workers": 2}})
    server.add_user("ada@a.test")
    server.start()
    first = server.configuration.read_text()
    eventually(lambda: (server.folder / "state" / "control-1").exists(), "the last worker serves")
    assert _config(server, "diff")[0] == 0
    server.configuration.write_text(
        f'{first}\n[limits]\nmessage_size = "1 MiB"\n[pop3]\nlogin_delay = "9s"\n'
    )
    rows = json.loads(_config(server, "diff", "--json")[1])
    assert [(row["key"], row["needs_restart"]) for row in rows] == [
        ("limits.message_size", False),
        ("pop3.login_delay", True),
    ]
    open_session = smtplib.SMTP(server.host, server.ports["smtp"], timeout=PATIENCE)
    open_session.ehlo()
    code, out, err = _config(server, "apply", "--confirm-within", "3s")
    assert code == 0, err
    assert "after a restart" in out
    assert _limit(server) == "1048576"
    assert open_session.docmd("MAIL FROM:<x@y.test>")[0] == 250
    assert open_session.docmd("RCPT TO:<ada@a.test>")[0] == 250
    assert open_session.data("Subject: still here\r\n\r\nx\r\n")[0] == 250
    open_session.quit()
    eventually(lambda: _limit(server) == "52428800", "the change is taken back")
    assert "nobody confirmed" in server.console()
    assert _config(server, "confirm")[0] == os.EX_UNAVAILABLE
    assert _config(server, "apply", "--confirm-within", "20s")[0] == 0
    assert _config(server, "confirm")[0] == 0
    assert _limit(server) == "1048576"
    _mistakes_change_nothing(server)
    server.configuration.write_text(first)
    os.kill(server.pid, signal.SIGHUP)
    eventually(lambda: _limit(server) == "52428800", "SIGHUP")


def _mistakes_change_nothing(server: Server) -> None:
    server.configuration.write_text(MISTAKES + "[login]\n")
    said = f"{server.configuration}: "
    for arguments in (("check",), ("apply",)):
        code, out, err = _config(server, *arguments)
        assert (code, out) == (os.EX_CONFIG, "")
        lines = err.splitlines()
        assert len(lines) == 5, lines
        for line, key in zip(sorted(lines), sorted(_KEYS), strict=True):
            assert f"{said}{key}: " in line, line
    os.kill(server.pid, signal.SIGHUP)
    eventually(lambda: server.console().count("did you mean hostname?") >= 1, "the log says why")
    assert _limit(server) == "1048576"


_KEYS = ["hostnam", "limits.message_size", "relay.trusted_networks[0]", "relay.warn_after", "workers"]
