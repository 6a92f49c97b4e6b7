"""Submission beside Postfix with Dovecot's SASL: a new connection, STARTTLS and AUTH PLAIN for each message.

``python -m benchmarks.submission --help`` tells the options.  Both servers have a P-256 certificate and an
Argon2id or SHA512-CRYPT password as they keep it by default, deliver to a Maildir here, and run in turn.
The clients are processes of their own, for a handshake costs a client as much as a server.
"""

from __future__ import annotations

import argparse
import base64
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

from benchmarks.idle import _certificate
from benchmarks.local_delivery import Lost, Round, _wait_for_last, summarize
from benchmarks.measure import Meter
from benchmarks.peers import (
    DOMAIN,
    USER,
    OurServer,
    Peer,
    PeerFailed,
    PeerMissing,
    Postfix,
    _Daemon,
    find_program,
)
from benchmarks.places import fresh

PASSWORD = "a password for the benchmark only"
LOGIN = f"{USER}@{DOMAIN}"
CLIENTS = 8
WARM = 3
"""Messages of each client before the clock starts: every process is there, and has met the password once."""


class SubmissionPostfix(Postfix):
    """Postfix that asks Dovecot, as Debian's pages set the two up."""

    def start(self) -> None:
        place = self._folder / "sasl"
        place.mkdir()
        self._folder.chmod(0o755)
        place.chmod(0o755)
        self._hash = _crypted()
        (place / "users").write_text(f"{LOGIN}:{self._hash}\n")
        (place / "dovecot.conf").write_text(
            f"protocols = none\nbase_dir = {place}/run\nstate_dir = {place}/state\nlog_path = {place}/log\n"
            "ssl = no\ndisable_plaintext_auth = no\nauth_mechanisms = plain login\n"
            f"passdb {{\n  driver = passwd-file\n  args = {place}/users\n}}\n"
            f"userdb {{\n  driver = static\n  args = uid=nobody gid=nogroup home={place}\n}}\n"
            f"service auth {{\n  unix_listener {place}/auth {{\n    mode = 0666\n  }}\n}}\n"
        )
        self._dovecot = _Quiet(
            [find_program("dovecot", "dovecot-core"), "-F", "-c", str(place / "dovecot.conf")], place, 0
        )
        self._dovecot.socket = place / "auth"
        self._dovecot.start()
        super().start()

    def stop(self) -> None:
        super().stop()
        self._dovecot.stop()

    def _write_configuration(self) -> None:
        super()._write_configuration()
        certificate, key = _certificate(self._configuration)
        with (self._configuration / "main.cf").open("a") as main:
            main.write(
                f"smtpd_tls_cert_file = {certificate}\nsmtpd_tls_key_file = {key}\n"
                "smtpd_tls_security_level = may\nsmtpd_sasl_auth_enable = yes\nsmtpd_tls_auth_only = yes\n"
                f"smtpd_sasl_type = dovecot\nsmtpd_sasl_path = {self._folder}/sasl/auth\n"
            )


class _Quiet(_Daemon):
    """A server whose only door is a socket in the file system."""

    socket: Path

    def _wait_until_it_answers(self) -> None:
        end = time.monotonic() + 30.0
        while time.monotonic() < end and self._process.poll() is None:
            if self.socket.exists():
                return
            time.sleep(0.05)
        raise PeerFailed(f"{self._command[0]} did not make {self.socket}")


def _crypted() -> str:
    """The password as ``doveadm pw`` keeps it by default."""
    command = [find_program("doveadm", "dovecot-core"), "pw", "-p", PASSWORD]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


class OurSubmission(OurServer):
    """This server's submission listener."""

    listener = "submission"

    def _extra(self) -> str:
        certificate, key = _certificate(self._folder)
        # One account sends it all: more than its usual 300 an hour. Postfix has no such limit.
        return (
            f'[tls]\ncertificate = "{certificate}"\nkey = "{key}"\n'
            "[submission]\nmessages_per_hour = 100000\nrecipients_per_hour = 100000\n"
        )


def submit(port: int, messages: int, length: int) -> int:
    """Messages one after the other, each over a connection of its own; how many were taken."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # one that reads no list of authorities each time
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    secret = base64.b64encode(f"\0{LOGIN}\0{PASSWORD}".encode())
    line = b"x" * 76 + b"\r\n"
    content = b"Subject: submitted\r\n\r\n" + line * (length // len(line)) + b".\r\n"
    for _ in range(messages):
        _submit_one(port, context, secret, content)
    return messages


def _submit_one(port: int, context: ssl.SSLContext, secret: bytes, content: bytes) -> None:
    client = socket.create_connection(("127.0.0.1", port), timeout=120)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _expect(client, b"220")
    _say(client, b"EHLO client.test\r\n", b"250")
    _say(client, b"STARTTLS\r\n", b"220")
    client = context.wrap_socket(client)
    _say(client, b"EHLO client.test\r\n", b"250")
    _say(client, b"AUTH PLAIN " + secret + b"\r\n", b"235")
    _say(client, f"MAIL FROM:<{LOGIN}>\r\n".encode(), b"250")
    _say(client, f"RCPT TO:<{LOGIN}>\r\n".encode(), b"250")
    _say(client, b"DATA\r\n", b"354")
    _say(client, f"From: <{LOGIN}>\r\n".encode() + content, b"250")
    _say(client, b"QUIT\r\n", b"221")
    client.close()


def _say(client: socket.socket, octets: bytes, code: bytes) -> None:
    client.sendall(octets)
    _expect(client, code)


def _expect(client: socket.socket, code: bytes) -> None:
    answer = b""
    while not (answer.endswith(b"\r\n") and answer.splitlines()[-1][3:4] in (b" ", b"")):
        piece = client.recv(4096)
        if not piece:
            raise PeerFailed(f"the connection was closed after {answer!r}")
        answer += piece
    if not answer.startswith(code):
        raise PeerFailed(f"expected {code.decode()}, got {answer!r}")


def run_round(peer: Peer, messages: int, length: int) -> Round:
    """All messages over ``CLIENTS`` at once, until the last file is in its Maildir."""
    peer.start()
    try:
        with ProcessPoolExecutor(CLIENTS) as clients:
            submit_all = partial(_submit_to, peer.port, length)
            warm = sum(clients.map(submit_all, [WARM] * CLIENTS))
            _wait_for_last(peer.new, warm)
            with Meter(peer.pid) as meter:
                began = time.time()
                sent = sum(clients.map(submit_all, [messages // CLIENTS] * CLIENTS))
                ended = _wait_for_last(peer.new, warm + sent)
        return Round(ended - began, sent, meter.cost)
    finally:
        peer.stop()


def _submit_to(port: int, length: int, messages: int) -> int:
    return submit(port, messages, length)


def compare(
    makers: list[Callable[[Path], Peer]], messages: int, length: int, rounds: int, folder: Path
) -> dict[str, list[Round]]:
    """Each in turn, ``rounds`` times.

    Raises:
        PeerFailed, PeerMissing, Lost: a server did not do what it should.
    """
    results: dict[str, list[Round]] = {}
    for number in range(rounds):
        for make in makers:
            place = fresh(folder)
            peer = make(place)
            result = run_round(peer, messages, length)
            results.setdefault(peer.name, []).append(result)
            print(f"round {number + 1}  {peer.name:24s} {result.rate:7.1f} messages/s", flush=True)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.submission", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--messages", type=int, default=960)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[1], help="processes of ours; may be several numbers"
    )
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"), help="on the disk to measure")
    options = parser.parse_args()
    makers: list[Callable[[Path], Peer]] = [SubmissionPostfix]
    makers += [partial(OurSubmission, workers=workers) for workers in options.workers]
    try:
        summarize(compare(makers, options.messages, options.length, options.rounds, options.folder))
    except (PeerMissing, PeerFailed, Lost, BrokenProcessPool) as error:
        print(f"submission: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
