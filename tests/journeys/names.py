"""A real DNS server (Debian's nsd) on a loopback port, for the zones of one test."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.journeys.tools import PATIENCE, free_port, tool

_CONFIGURATION = """\
server:
    ip-address: 127.0.0.1@{port}
    server-count: 1
    username: ""
    chroot: ""
    zonesdir: "{folder}"
    database: ""
    pidfile: "{folder}/nsd.pid"
    xfrdfile: "{folder}/xfrd.state"
    zonelistfile: "{folder}/zone.list"
    logfile: "{folder}/nsd.log"
remote-control:
    control-enable: no
"""
_APEX = "@ 60 SOA ns.{zone}. root.{zone}. 1 3600 600 86400 60\n@ 60 NS ns.{zone}.\nns 60 A 127.0.0.1\n"


class NameServer:
    """``zones`` maps a zone to its records in master file form, ``mx 60 A 127.0.0.2`` and so on; a zone
    that brings no SOA gets one."""

    def __init__(self, folder: Path, zones: dict[str, str]) -> None:
        self._nsd = tool("nsd")
        self._folder = folder
        self.port = free_port()
        folder.mkdir(parents=True)
        text = _CONFIGURATION.format(port=self.port, folder=folder)
        for zone, records in zones.items():
            text += f'zone:\n    name: "{zone}"\n    zonefile: "{zone}.zone"\n'
            apex = "" if "SOA" in records else _APEX.format(zone=zone)
            (folder / f"{zone}.zone").write_text(f"$ORIGIN {zone}.\n{apex}{records}\n")
        (folder / "nsd.conf").write_text(text)

    @property
    def address(self) -> str:
        """As ``relay.nameservers`` takes it."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> NameServer:
        command = [self._nsd, "-d", "-c", str(self._folder / "nsd.conf")]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return self
            except OSError:
                time.sleep(0.05)
        self.stop()
        pytest.fail(f"nsd did not start: {(self._folder / 'nsd.log').read_text()}")

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(PATIENCE)
