"""Memory of idle connections, beside Postfix (SMTP) and Dovecot (POP3), in clear and in TLS.

``python -m benchmarks.idle --help`` tells the options.  Clients read the greeting, do the handshake where
there is one, and say nothing.  The peers have Debian's defaults, which bound their processes to about a
hundred: fewer connections are held there, and what one costs is what is compared.  Memory is PSS: a page
that several processes share is counted once.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import resource
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from benchmarks.measure import memory
from benchmarks.peers import (
    DOMAIN,
    START_SECONDS,
    OurServer,
    PeerFailed,
    PeerMissing,
    Postfix,
    _Daemon,
    find_program,
    free_port,
)
from benchmarks.places import fresh

CLIENTS = 40
"""Addresses of loopback that the connections come from, so that no limit for one client is met."""
SETTLE_SECONDS = 1.0


class Server(Protocol):
    """A server that greets on ``port``, after a handshake where its protocol is in TLS."""

    name: str
    port: int
    pid: int

    def start(self) -> None: ...
    def stop(self) -> None: ...


Make = Callable[[Path], Server]


class _Listening(_Daemon):
    """A server that may want TLS before it greets: it has started when it accepts."""

    def _wait_until_it_answers(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=5).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        last_words = self._log.read_text(errors="replace")[-2000:]
        self.stop()
        raise PeerFailed(f"{' '.join(self._command)}: does not accept on port {self._port}\n{last_words}")


def _certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate and its key, such as each of the servers is given."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    command = [
        find_program("openssl", "openssl"),
        "req",
        "-x509",
        *curve,
        *files,
        "-subj",
        f"/CN=mx.{DOMAIN}",
    ]
    subprocess.run(command, check=True, capture_output=True)
    key.chmod(0o600)
    return certificate, key


class Ours:
    """This server with one listener, in one process."""

    def __init__(self, folder: Path, listener: str) -> None:
        self.name = "mailserver"
        self.port, self.pid = free_port(), 0
        self._folder, self._listener = folder, listener
        self._configuration = folder / "mailserver.toml"
        command = [OurServer._program("twistd"), "-n", "--pidfile=", "mailserver", "--config"]
        self._daemon = _Listening([*command, str(self._configuration)], folder, self.port)

    def start(self) -> None:
        certificate, key = _certificate(self._folder)
        names = ("smtp", "submission", "submissions", "pop3", "pop3s")
        listen = dict.fromkeys(names, "")
        listen[self._listener] = f"tcp:{self.port}:interface=127.0.0.1"
        self._configuration.write_text(
            f'hostname = "mx.{DOMAIN}"\ndomains = ["{DOMAIN}"]\n[listen]\n'
            + "".join(f'{name} = "{where}"\n' for name, where in listen.items())
            + f'[tls]\ncertificate = "{certificate}"\nkey = "{key}"\n'
        )
        self.pid = self._daemon.start()

    def stop(self) -> None:
        self._daemon.stop()


class IdlePostfix(Postfix):
    """Debian's Postfix; in TLS from the first octet where that is asked for."""

    def __init__(self, folder: Path, in_tls: bool) -> None:
        super().__init__(folder)
        self._in_tls = in_tls
        self._daemon = _Listening(self._daemon._command, folder, self.port)

    def _write_configuration(self) -> None:
        super()._write_configuration()
        if self._in_tls:
            certificate, key = _certificate(self._configuration)
            with (self._configuration / "main.cf").open("a") as main:
                main.write(f"smtpd_tls_cert_file = {certificate}\nsmtpd_tls_key_file = {key}\n")
                main.write("smtpd_tls_security_level = encrypt\nsmtpd_tls_wrappermode = yes\n")


class IdleDovecot:
    """Debian's Dovecot with its defaults and POP3 alone."""

    def __init__(self, folder: Path, in_tls: bool) -> None:
        program = find_program("dovecot", "dovecot-pop3d")
        version = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
        self.name = f"Dovecot {version.stdout.split()[0]}"
        self.port, self.pid = free_port(), 0
        self._folder, self._in_tls = folder, in_tls
        command = [program, "-F", "-c", str(folder / "dovecot.conf")]
        self._daemon = _Listening(command, folder, self.port)

    def start(self) -> None:
        if os.geteuid() != 0:
            raise PeerMissing("Dovecot starts as root only; run the benchmark as root")
        self._folder.chmod(0o755)
        certificate, key = _certificate(self._folder)
        open_port, closed_port = ("pop3s", "pop3") if self._in_tls else ("pop3", "pop3s")
        (self._folder / "dovecot.conf").write_text(
            f"protocols = pop3\nbase_dir = {self._folder}/run\nstate_dir = {self._folder}/state\n"
            f"log_path = {self._folder}/dovecot.log\nlisten = 127.0.0.1\n"
            f"ssl = yes\nssl_cert = <{certificate}\nssl_key = <{key}\n"
            f"mail_location = maildir:{self._folder}/mail\nfirst_valid_uid = 1\n"
            f"mail_uid = {pwd.getpwnam('mail').pw_uid}\n"
            f"service pop3-login {{\n  inet_listener {open_port} {{\n    port = {self.port}\n  }}\n"
            f"  inet_listener {closed_port} {{\n    port = 0\n  }}\n}}\n"
            f"passdb {{\n  driver = passwd-file\n  args = {self._folder}/users\n}}\n"
        )
        (self._folder / "users").write_text("")
        self.pid = self._daemon.start()

    def stop(self) -> None:
        self._daemon.stop()


KINDS: dict[str, tuple[str, Make]] = {
    "SMTP": ("smtp", lambda folder: IdlePostfix(folder, False)),
    "SMTP in TLS": ("submissions", lambda folder: IdlePostfix(folder, True)),
    "POP3": ("pop3", lambda folder: IdleDovecot(folder, False)),
    "POP3 in TLS": ("pop3s", lambda folder: IdleDovecot(folder, True)),
}
"""By protocol: our listener, and the peer."""


def hold(port: int, count: int, in_tls: bool, crowd: ExitStack) -> None:
    """Open ``count`` connections that stay, each greeted.

    Raises:
        PeerFailed: a server has no greeting for one of them.
    """
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for number in range(count):
        source = (f"127.0.0.{2 + number % CLIENTS}", 0)
        client = socket.create_connection(("127.0.0.1", port), timeout=60, source_address=source)
        if in_tls:
            client = context.wrap_socket(client)
        crowd.callback(client.close)
        if client.recv(200)[:3] not in (b"220", b"+OK"):
            raise PeerFailed(f"connection {number + 1} was not greeted")


def octets_each(make: Make, count: int, in_tls: bool, folder: Path) -> tuple[str, float]:
    """The server's name and the memory that one idle connection costs: what the second half of ``count``
    adds, for the first ones fill the memory that starting has left free."""
    place = fresh(folder)
    server = make(place)
    server.start()
    try:
        with ExitStack() as crowd:
            hold(server.port, count // 2, in_tls, crowd)
            time.sleep(SETTLE_SECONDS)
            before = memory(server.pid)
            hold(server.port, count - count // 2, in_tls, crowd)
            time.sleep(SETTLE_SECONDS)
            return server.name, (memory(server.pid) - before) / (count - count // 2)
    finally:
        server.stop()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle", description=__doc__)
    parser.add_argument("--connections", type=int, default=2000, help="held by us")
    parser.add_argument("--peer-connections", type=int, default=80, help="held by Postfix and by Dovecot")
    parser.add_argument("--only", choices=["peers", "ours"], help="leave out the others")
    parser.add_argument("--kind", choices=list(KINDS), help="this one alone")
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="for the servers' files")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON at the end")
    options = parser.parse_args()
    files = options.connections + 200
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(files, hard), hard))
    figures: dict[str, dict[str, float]] = {}
    try:
        for kind, (listener, peer) in KINDS.items():
            if options.kind not in (None, kind):
                continue
            turns: list[tuple[Make, int]] = []
            if options.only != "ours":
                turns.append((peer, options.peer_connections))
            if options.only != "peers":
                turns.append((lambda folder, which=listener: Ours(folder, which), options.connections))  # type: ignore[misc]
            for make, count in turns:
                name, each = octets_each(make, count, "TLS" in kind, options.folder)
                figures.setdefault(kind, {})[name] = each
                print(
                    f"{kind:12s} {name:20s} {count:5d} connections  {each / 1024:8.1f} KiB each", flush=True
                )
    except (PeerMissing, PeerFailed) as error:
        print(f"idle: {error}", file=sys.stderr)
        return 1
    for kind, row in figures.items():
        if len(row) == 2:
            theirs, ours = row.values()
            print(f"ratio        {kind:20s} {ours / theirs:.3f} of the peer's")
    if options.json:
        print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
