"""Starts and stops the servers that are compared, each in a folder of its own, on loopback."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

DOMAIN = "bench.test"
USER = "user"
START_SECONDS = 30.0
STOP_SECONDS = 20.0
POSTFIX = Path("/usr/lib/postfix/sbin")


class PeerMissing(Exception):
    """A program that the comparison needs is not installed; the text says how to get it."""


class PeerFailed(Exception):
    """A server did not start; the text is its last words."""


class Peer(Protocol):
    """A server with one mailbox, ``user@bench.test``, that can be started once and stopped."""

    name: str
    port: int
    new: Path  # where the mailbox's new messages appear
    pid: int

    def start(self) -> None: ...
    def stop(self) -> None: ...


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def find_program(name: str, package: str) -> str:
    """The path of a program, also of root's.

    Raises:
        PeerMissing: it is not installed.
    """
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        raise PeerMissing(f"{name} is not installed; `apt-get install {package}` brings it")
    return path


class _Daemon:
    """A server in the foreground in a session of its own, so that it ends with all its children."""

    start_seconds, stop_seconds = START_SECONDS, STOP_SECONDS

    def __init__(self, command: Sequence[str], folder: Path, port: int, greeting: bytes = b"220") -> None:
        self._command, self._folder, self._port, self._greeting = command, folder, port, greeting
        self._log = folder / "console.log"

    def start(self, environment: dict[str, str] | None = None) -> int:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
        self._wait_until_it_answers()
        return self._process.pid

    def _wait_until_it_answers(self) -> None:
        end = time.monotonic() + self.start_seconds
        while time.monotonic() < end and self._process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", self._port), timeout=5) as probe:
                    if probe.recv(64).startswith(self._greeting):
                        probe.sendall(b"QUIT\r\n")
                        return
            except OSError:
                time.sleep(0.05)
        last_words = self._log.read_text(errors="replace")[-2000:]
        self.stop()
        raise PeerFailed(f"{' '.join(self._command)}: no greeting on port {self._port}\n{last_words}")

    def wait_until_it_says(self, words: bytes) -> None:
        """Wait for a line of its log."""
        end = time.monotonic() + self.start_seconds
        while words not in self._log.read_bytes():
            if time.monotonic() > end:
                raise PeerFailed(f"{' '.join(self._command)}: waited in vain for {words!r} in its log")
            time.sleep(0.05)

    def stop(self) -> None:
        """SIGTERM to the server; SIGKILL to its process group when it does not end in time."""
        if self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(self.stop_seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class Postfix:
    """Debian's Postfix with its defaults: its own queue, master process and virtual(8) delivery."""

    def __init__(self, folder: Path) -> None:
        self.name = f"Postfix {self._version()}"
        self.port = free_port()
        self.pid = 0
        self.new = folder / "mail" / USER / "new"
        self._folder = folder
        self._configuration = folder / "etc"
        self._queue = folder / "queue"
        self._daemon = _Daemon(
            [str(POSTFIX / "master"), "-c", str(self._configuration), "-d"], folder, self.port
        )

    @staticmethod
    def _version() -> str:
        command = [find_program("postconf", "postfix"), "-d", "-h", "mail_version"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def start(self) -> None:
        if os.geteuid() != 0:
            raise PeerMissing("Postfix starts as root only; run the benchmark as root")
        self._folder.chmod(0o755)
        self._write_configuration()
        self._make_folders()
        self.pid = self._daemon.start()

    def stop(self) -> None:
        self._daemon.stop()

    def _write_configuration(self) -> None:
        """As few lines as it takes: what is not here is as Debian ships it."""
        self._configuration.mkdir()
        owner = pwd.getpwnam("nobody")
        settings = {
            "compatibility_level": "3.6",
            "queue_directory": self._queue,
            "data_directory": self._folder / "data",
            "myhostname": f"mx.{DOMAIN}",
            "mydestination": "",
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "mynetworks": "127.0.0.0/8",
            "alias_maps": "",
            "alias_database": "",
            "virtual_mailbox_domains": DOMAIN,
            "virtual_mailbox_base": self._folder / "mail",
            "virtual_mailbox_maps": f"static:{USER}/",
            "virtual_uid_maps": f"static:{owner.pw_uid}",
            "virtual_gid_maps": f"static:{owner.pw_gid}",
        }
        lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
        (self._configuration / "main.cf").write_text(lines)
        (self._configuration / "master.cf").write_text(self._services())
        self._configuration.chmod(0o755)

    def _services(self) -> str:
        """Debian's master.cf, but smtpd on our port and nothing chrooted into a queue without /etc."""
        services = []
        for line in Path("/usr/share/postfix/master.cf.dist").read_text().splitlines():
            fields = line.split()
            if len(fields) < 8 or line[0].isspace() or line.startswith("#") or fields[7] == "pipe":
                continue
            if fields[1] == "inet":
                fields[0] = f"127.0.0.1:{self.port}"
            fields[4] = "n"
            services.append("\t".join(fields))
        return "\n".join(services) + "\n"

    def _make_folders(self) -> None:
        owner = pwd.getpwnam("postfix").pw_uid
        queues = (
            "active bounce corrupt defer deferred flush hold incoming maildrop private public saved trace"
        )
        for name in queues.split():
            self._make_folder(self._queue / name, owner)
        self._make_folder(self._queue / "pid", 0)
        self._make_folder(self._folder / "data", owner)
        self._make_folder(self._folder / "mail", pwd.getpwnam("nobody").pw_uid)

    @staticmethod
    def _make_folder(path: Path, owner: int) -> None:
        path.mkdir(parents=True)
        os.chown(path, owner, -1)


class OurServer:
    """This server, by ``twistd`` in the foreground, with a Maildir in its own folder."""

    listener = "smtp"
    """The one that ``port`` is of; there is no other."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.name = f"mailserver, workers = {workers}"
        self.port = free_port()
        self.pid = 0
        self.new = folder / "maildirs" / DOMAIN / USER / "new"
        self._folder = folder
        self._configuration = folder / "mailserver.toml"
        self._workers = workers
        self.began = 0.0
        self._daemon = _Daemon(
            [self._program("twistd"), "-n", "--pidfile=", "mailserver", "--config", str(self._configuration)],
            folder,
            self.port,
        )

    @staticmethod
    def _program(name: str) -> str:
        """What pip installed beside the interpreter that runs the benchmark."""
        beside = Path(sys.executable).parent / name
        return str(beside) if beside.exists() else find_program(name, "python3-venv, then pip install -e .")

    def start(self) -> None:
        self._configuration.write_text(
            f'hostname = "mx.{DOMAIN}"\n'
            f'domains = ["{DOMAIN}"]\n'
            f"workers = {self._workers}\n"
            "[listen]\n" + self._listen() + self._extra()
        )
        command = [self._program("mailserver"), "--config", str(self._configuration)]
        added = subprocess.run(
            [*command, "user", "add", f"{USER}@{DOMAIN}", "--password-stdin"],
            input="a password for the benchmark only\n",
            text=True,
            check=False,
            cwd=self._folder,
            capture_output=True,
        )
        if added.returncode != 0:
            raise PeerFailed(f"mailserver user add: {added.stderr}")
        self.began = time.monotonic()
        self.pid = self._daemon.start()
        if self._workers > 1:
            self._daemon.wait_until_it_says(b"listening: ")  # the first worker serves before the others

    def _listen(self) -> str:
        listeners = dict.fromkeys(("smtp", "submission", "submissions", "pop3", "pop3s"), "")
        listeners[self.listener] = f"tcp:{self.port}:interface=127.0.0.1"
        return "".join(f'{name} = "{where}"\n' for name, where in listeners.items())

    def _extra(self) -> str:
        """Further lines of the configuration."""
        return ""

    def stop(self) -> None:
        self._daemon.stop()
