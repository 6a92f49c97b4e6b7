"""One server of ours as a process: its folder, its ports, its users, its end."""

from __future__ import annotations

import json
import os
import poplib
import signal
import socket
import subprocess
import time
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from tests.journeys.tools import PATIENCE, free_port, ours, run

PASSWORD = "a pass phrase of the journeys"
LISTENERS = ("smtp", "submission", "submissions", "pop3", "pop3s")


def _toml(value: Any) -> str:
    """JSON's strings, numbers, booleans and arrays are TOML's too."""
    return json.dumps(value)


class Server:
    """``twistd -n mailserver`` in ``folder``, listening on ``host`` at ports of its own.

    ``settings`` are further keys of the configuration: ``{"": {…}, "relay": {…}}``, where ``""`` is
    the top.  Ports may be given in ``ports``; the others are free ones.
    """

    def __init__(
        self,
        folder: Path,
        hostname: str,
        domains: list[str],
        settings: dict[str, dict[str, Any]] | None = None,
        host: str = "127.0.0.1",
        ports: dict[str, int] | None = None,
        options: tuple[str, ...] = (),
    ) -> None:
        self.folder, self.host, self.domains = folder, host, domains
        self.ports = {name: (ports or {}).get(name) or free_port(host) for name in LISTENERS}
        self.configuration = folder / "mailserver.toml"
        self.log = folder / "console.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._options = options
        self.more: list[str] = []
        """Further options of ``mailserver`` itself."""
        folder.mkdir(parents=True, exist_ok=True)
        self._write_configuration(hostname, domains, settings or {})

    def _write_configuration(
        self, hostname: str, domains: list[str], settings: dict[str, dict[str, Any]]
    ) -> None:
        listen = {name: f"tcp:{port}:interface={self.host}" for name, port in self.ports.items()}
        tables: dict[str, dict[str, Any]] = {"": {"hostname": hostname, "domains": domains}, "listen": listen}
        for name, table in settings.items():
            tables[name] = {**tables.get(name, {}), **table}
        text = ""
        for name, table in tables.items():
            text += f"\n[{name}]\n" if name else ""
            text += "".join(f"{_toml(k)} = {_toml(v)}\n" for k, v in table.items())
        self.configuration.write_text(text)

    # -- its life ----------------------------------------------------------------------------------

    @property
    def command(self) -> list[str]:
        options = ["-n", "--pidfile=", *self._options]
        return [ours("twistd"), *options, "mailserver", "--config", str(self.configuration), *self.more]

    @property
    def pid(self) -> int:
        assert self.process is not None, "not started"
        return self.process.pid

    def start(self) -> Server:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_until_it_accepts()
        return self

    def _wait_until_it_accepts(self) -> None:
        assert self.process is not None
        waiting = set(self.ports.values())
        end = time.monotonic() + PATIENCE
        while waiting and time.monotonic() < end and self.process.poll() is None:
            for port in sorted(waiting):
                try:
                    socket.create_connection((self.host, port), timeout=1).close()
                    waiting.discard(port)
                except OSError:
                    time.sleep(0.05)
        if waiting:
            self.kill()
            pytest.fail(f"the server did not start:\n{self.console()}")

    def stop(self) -> None:
        """SIGTERM, as ``systemctl stop`` does; a server that does not end is a failed test."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"the server did not end after SIGTERM:\n{self.console()}")

    def kill(self) -> None:
        """SIGKILL to the server and its workers: nothing is finished, nothing is said."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def console(self) -> str:
        """Everything it has logged so far."""
        return self.log.read_text(errors="replace")

    # -- its users ---------------------------------------------------------------------------------

    def cli(self, *arguments: str, stdin: str = "") -> str:
        """What ``mailserver --config … ARGUMENTS`` prints; a failure fails the test."""
        done = run(
            [ours("mailserver"), "--config", str(self.configuration), *arguments],
            input=stdin,
            cwd=self.folder,
        )
        assert done.returncode == 0, f"mailserver {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return done.stdout

    def add_user(self, address: str, *options: str) -> None:
        self.cli("user", "add", address, "--password-stdin", *options, stdin=PASSWORD + "\n")

    def queue(self) -> list[dict[str, Any]]:
        """``mailserver queue list --json``."""
        listed: list[dict[str, Any]] = json.loads(self.cli("queue", "list", "--json"))
        return listed

    # -- its mail ----------------------------------------------------------------------------------

    def raw_mail(self, login: str) -> list[bytes]:
        """Every message of a mailbox by POP3 over TLS, nothing deleted."""
        client = poplib.POP3_SSL(self.host, self.ports["pop3s"], timeout=PATIENCE)
        try:
            client.user(login)
            client.pass_(PASSWORD)
            count, _ = client.stat()
            return [b"\r\n".join([*client.retr(n + 1)[1], b""]) for n in range(count)]
        finally:
            client.quit()

    def mail(self, login: str) -> list[EmailMessage]:
        return [message_from_bytes(raw, policy=policy.default) for raw in self.raw_mail(login)]
