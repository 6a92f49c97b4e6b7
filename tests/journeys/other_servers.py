"""Exim and OpenSMTPD of Debian's, unpacked beside Postfix, each in a folder of its own on loopback."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from benchmarks.peers import Postfix
from tests.journeys.tools import EXIM, PATIENCE, free_port, lacking, run, tool
from tests.relay.authority import Identity

OPENSMTPD = Path(os.environ.get("MAILSERVER_OPENSMTPD", "/opt/opensmtpd"))
"""Where ``.ci/run`` unpacks Debian's opensmtpd, which cannot be installed beside Postfix."""


def _as_root(program: Path, package: str) -> Path:
    """A program that root must start; none of these is missing in CI."""
    if not program.exists():
        lacking(f"{program} is not there; .ci/run shows how to unpack Debian's {package} beside Postfix")
    if os.geteuid() != 0:
        lacking(f"{package} starts as root only")
    return program


class SecurePostfix(Postfix):
    """Debian's Postfix with a certificate; takes mail for ``user@bench.test``."""

    def __init__(self, identity: Identity) -> None:
        if os.geteuid() != 0:
            lacking("Postfix starts as root only")
        self._root = Path(tempfile.mkdtemp(prefix="postfix-"))
        self._tls = identity.write(self._root / "tls")
        (self._root / "it").mkdir()
        super().__init__(self._root / "it")

    def _write_configuration(self) -> None:
        super()._write_configuration()
        self._root.chmod(0o755)
        certificate, key = self._tls
        with (self._root / "it" / "etc" / "main.cf").open("a") as main:
            main.write(f"smtpd_tls_cert_file = {certificate}\nsmtpd_tls_key_file = {key}\n")
            main.write("smtpd_tls_security_level = encrypt\nsmtpd_tls_received_header = yes\n")

    def received(self) -> list[str]:
        """The messages in its mailbox."""
        return [path.read_text() for path in self.new.glob("*")] if self.new.exists() else []

    def stop(self) -> None:
        super().stop()
        shutil.rmtree(self._root, ignore_errors=True)


class _InFolder:
    """A server in the foreground, ended with its process group."""

    host = "127.0.0.1"

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="peer-"))
        self.folder.chmod(0o755)
        self.port = free_port(self.host)

    def _run(self, command: list[str]) -> None:
        with (self.folder / "console.log").open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self._process.poll() is None:
            try:
                with socket.create_connection((self.host, self.port), timeout=5) as probe:
                    if probe.recv(4).startswith(b"220"):
                        return
            except OSError:
                time.sleep(0.05)
        words = (self.folder / "console.log").read_text()
        self.stop()
        pytest.fail(f"{command[0]} did not start: {words}")

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(PATIENCE)
        shutil.rmtree(self.folder, ignore_errors=True)


_EXIM = """\
exim_path = {exim}
primary_hostname = mx.exim.test
domainlist ours = exim.test
spool_directory = {folder}/spool
log_file_path = {folder}/%slog
pid_file_path = {folder}/pid
local_interfaces = <; [127.0.0.1]:{port}
tls_advertise_hosts = *
tls_certificate = {certificate}
tls_privatekey = {key}
queue_only = true
keep_environment =
exim_user = root
exim_group = root
acl_smtp_rcpt = recipients
acl_smtp_data = accept
begin acl
recipients:
  accept domains = +ours
         encrypted = *
begin routers
here:
  driver = accept
  domains = +ours
  transport = nowhere
begin transports
nowhere:
  driver = appendfile
  file = /dev/null
  user = nobody
"""


class Exim(_InFolder):
    """Takes mail for exim.test, under TLS alone, and keeps it in its queue."""

    def __init__(self, identity: Identity) -> None:
        exim = _as_root(EXIM, "exim4-daemon-light")
        super().__init__()
        (self.folder / "spool").mkdir()
        certificate, key = identity.write(self.folder / "tls")
        text = _EXIM.format(exim=exim, folder=self.folder, port=self.port, certificate=certificate, key=key)
        (self.folder / "exim.conf").write_text(text)
        self._command = [str(exim), "-C", str(self.folder / "exim.conf"), "-bdf"]

    def start(self) -> None:
        self._run(self._command)

    def received(self) -> list[str]:
        """The contents that it holds."""
        return [path.read_text() for path in (self.folder / "spool").glob("input/**/*-D")]

    def log(self) -> str:
        path = self.folder / "mainlog"
        return path.read_text() if path.exists() else ""


_SMTPD = """\
pki peer cert "{certificate}"
pki peer key "{key}"
listen on 127.0.0.1 port {port} tls pki peer hostname mx.opensmtpd.test
table users {{ bob = "65534:65534:{folder}/mail" }}
table virtuals {{ "bob@opensmtpd.test" = "bob" }}
action "keep" maildir "{folder}/mail" userbase <users> virtual <virtuals>
match from any for domain "opensmtpd.test" action "keep"
"""
_NAMESPACE = """\
set -e
cd {folder}
cp /etc/passwd passwd; cp /etc/group group
for name in opensmtpd:990 opensmtpq:991; do
    echo "${{name%:*}}:x:${{name#*:}}:${{name#*:}}::/var/lib/opensmtpd/empty:/usr/sbin/nologin" >> passwd
    echo "${{name%:*}}:x:${{name#*:}}:" >> group
done
mount --bind passwd /etc/passwd
mount --bind group /etc/group
mount -t tmpfs none /var/spool
mount -t tmpfs none /var/lib
mount -t tmpfs none /usr/libexec
mkdir -m 711 /var/spool/smtpd
mkdir -p /var/lib/opensmtpd/empty /usr/libexec/opensmtpd
chmod 711 /var/lib/opensmtpd/empty
mount --bind {unpacked}/usr/libexec/opensmtpd /usr/libexec/opensmtpd
exec {smtpd} -d -f {folder}/smtpd.conf
"""


class OpenSMTPD(_InFolder):
    """Takes mail for bob@opensmtpd.test. Its paths and users are compiled in: it runs in a namespace of
    mounts in which they are what it expects."""

    def __init__(self, identity: Identity) -> None:
        smtpd = _as_root(OPENSMTPD / "usr/sbin/smtpd", "opensmtpd")
        unshare = tool("unshare", "util-linux")
        if run([unshare, "-m", "mount", "-t", "tmpfs", "none", "/mnt"]).returncode != 0:
            lacking("no namespace of mounts can be made here")
        super().__init__()
        (self.folder / "mail").mkdir()
        (self.folder / "mail").chmod(0o777)
        certificate, key = identity.write(self.folder / "tls")
        key.chmod(0o600)
        names = {"folder": self.folder, "port": self.port, "certificate": certificate, "key": key}
        (self.folder / "smtpd.conf").write_text(_SMTPD.format(**names))
        (self.folder / "run.sh").write_text(
            _NAMESPACE.format(folder=self.folder, unpacked=OPENSMTPD, smtpd=smtpd)
        )
        self._command = [unshare, "-m", "sh", str(self.folder / "run.sh")]

    def start(self) -> None:
        self._run(self._command)

    def received(self) -> list[str]:
        """The messages in its mailbox."""
        return [path.read_text() for path in (self.folder / "mail").glob("new/*")]
