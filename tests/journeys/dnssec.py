"""A signed zone of our own, and Debian's unbound that validates it for one test."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import dns.message
import dns.query
import pytest

from tests.journeys.names import NameServer
from tests.journeys.tools import PATIENCE, free_port, run, tool

_CONFIGURATION = """\
server:
    interface: 127.0.0.1@{port}
    username: ""
    chroot: ""
    directory: "{folder}"
    pidfile: "{folder}/unbound.pid"
    logfile: "{folder}/unbound.log"
    use-syslog: no
    do-daemonize: no
    do-ip6: no
    num-threads: 1
    do-not-query-localhost: no
    local-zone: "test." nodefault
    module-config: "validator iterator"
    trust-anchor-file: "{folder}/anchors"
remote-control:
    control-enable: no
"""
_STUB = 'stub-zone:\n    name: "{zone}."\n    stub-addr: 127.0.0.1@{port}\n'


def signed(folder: Path, zone: str, records: str, spoil: tuple[str, str] | None = None) -> tuple[str, str]:
    """The zone's master file, signed with keys made now, and its trust anchor; ``spoil`` replaces text
    after the signing, as a liar would."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = [_key(folder, zone, *flags) for flags in (["-k"], [])]
    source = folder / f"{zone}.zone"
    source.write_text(f"$ORIGIN {zone}.\n$TTL 60\n{records}\n")
    done = run([tool("ldns-signzone", "ldnsutils"), "-n", str(source), *keys], cwd=folder)
    assert done.returncode == 0, done.stderr
    text = (folder / f"{zone}.zone.signed").read_text()
    if spoil is not None:
        assert spoil[0] in text
        text = text.replace(*spoil)
    return text, (folder / f"{keys[0]}.ds").read_text()


def _key(folder: Path, zone: str, *flags: str) -> str:
    done = run(
        [tool("ldns-keygen", "ldnsutils"), *flags, "-r", "/dev/urandom", "-a", "ECDSAP256SHA256", zone],
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Validating:
    """unbound on a loopback port: asks ``name_server`` for ``zones``, believes ``anchors`` (DS records)."""

    def __init__(self, folder: Path, name_server: NameServer, zones: list[str], anchors: list[str]) -> None:
        self._unbound = tool("unbound")
        self._folder = folder
        self.port = free_port()
        folder.mkdir(parents=True)
        (folder / "anchors").write_text("".join(anchors))
        text = _CONFIGURATION.format(port=self.port, folder=folder)
        text += "".join(_STUB.format(zone=zone, port=name_server.port) for zone in zones)
        (folder / "unbound.conf").write_text(text)

    @property
    def address(self) -> str:
        """As ``relay.nameservers`` takes it."""
        return f"127.0.0.1:{self.port}"

    def start(self, probe: str) -> Validating:
        """Ready when ``probe`` has an answer."""
        self._process = subprocess.Popen(
            [self._unbound, "-d", "-c", str(self._folder / "unbound.conf")],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        end = time.monotonic() + PATIENCE
        question = dns.message.make_query(probe, "SOA")
        while time.monotonic() < end and self._process.poll() is None:
            try:
                if dns.query.udp(question, "127.0.0.1", 1.0, self.port).answer:
                    return self
            except (OSError, dns.exception.DNSException):
                pass
            time.sleep(0.05)
        self.stop()
        log = self._folder / "unbound.log"
        pytest.fail(f"unbound did not start: {log.read_text() if log.exists() else 'no log'}")

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(PATIENCE)
