"""systemd holds the port, hears that the server is ready; a session in DATA finishes, nobody is refused."""

from __future__ import annotations

import os
import smtplib
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.journeys.server import Server
from tests.journeys.tools import PATIENCE, eventually

_AS_SYSTEMD = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid()); "
    "os.environ['LISTEN_FDS'], os.environ['LISTEN_FDNAMES'] = '1', 'smtp'; "
    "os.execv(sys.argv[2], sys.argv[2:])"
)


def _start(server: Server, held: socket.socket, notify: Path) -> None:
    with server.log.open("ab") as log:
        server.process = subprocess.Popen(
            [sys.executable, "-c", _AS_SYSTEMD, str(held.fileno()), *server.command],
            cwd=server.folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=(held.fileno(),),
            env={**os.environ, "NOTIFY_SOCKET": str(notify), "WATCHDOG_USEC": "200000"},
        )


def test_a_restart_under_systemd(make_server: Callable[..., Server], tmp_path: Path) -> None:
    listen = {"smtp": "systemd:domain=INET:index=0", "submission": "", "submissions": "", "pop3": ""}
    server = make_server("a", "mx.a.test", ["a.test"], {"listen": listen})
    server.add_user("ada@a.test")
    with (
        socket.create_server(("127.0.0.1", 0), backlog=10) as held,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
    ):
        port = held.getsockname()[1]
        notify.bind(str(tmp_path / "notify"))
        notify.settimeout(PATIENCE)
        _start(server, held, tmp_path / "notify")
        assert notify.recv(100) == b"READY=1"
        assert notify.recv(100) == notify.recv(100) == b"WATCHDOG=1"
        first = smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE)
        first.ehlo()
        first.mail("x@y.test")
        first.rcpt("ada@a.test")
        first.putcmd("data")
        assert first.getreply()[0] == 354
        assert server.process is not None
        server.process.terminate()
        while notify.recv(100) != b"STOPPING=1":
            pass
        waiting = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        first.send(b"Subject: one\r\n\r\nIt goes on.\r\n.\r\n")
        assert first.getreply()[0] == 250
        server.process.wait(PATIENCE)
        _start(server, held, tmp_path / "notify")
        assert waiting.recv(100).startswith(b"220 mx.a.test")
        waiting.close()
        eventually(lambda: bool(list((server.folder / "maildirs/a.test/ada/new").glob("*"))), "the delivery")
        server.stop()
