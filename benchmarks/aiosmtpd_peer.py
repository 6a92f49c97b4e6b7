"""aiosmtpd with its Mailbox handler: Python's other SMTP server, into a Maildir, syncing nothing."""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks.peers import PeerMissing, _Daemon, free_port


class Aiosmtpd:
    """``python -m aiosmtpd`` as its own pages show it. Its 250 says that a file was written, not that it is
    on the disk."""

    def __init__(self, folder: Path) -> None:
        if importlib.util.find_spec("aiosmtpd") is None:
            raise PeerMissing("aiosmtpd is not installed; `pip install -e '.[bench]'` brings it")
        self.name = f"aiosmtpd {version('aiosmtpd')}, unsynced"
        self.port, self.pid = free_port(), 0
        self.new = folder / "mail" / "new"
        where = [
            "-n",
            "-l",
            f"127.0.0.1:{self.port}",
            "-c",
            "aiosmtpd.handlers.Mailbox",
            str(folder / "mail"),
        ]
        self._daemon = _Daemon([sys.executable, "-m", "aiosmtpd", *where], folder, self.port)

    def start(self) -> None:
        self.pid = self._daemon.start()

    def stop(self) -> None:
        self._daemon.stop()
