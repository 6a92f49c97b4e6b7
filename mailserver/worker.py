"""One worker process: ``python -m mailserver.worker``, started by ``supervisor.py`` and by nobody else."""

from __future__ import annotations

import os
import pickle
import sys
from typing import Any

from twisted.internet.process import ProcessReader
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.python.failure import Failure

from mailserver.listeners import StartFailed
from mailserver.service import MailServer
from mailserver.supervisor import ERRORS, INPUT, OUTPUT, READY, REPORT


def main() -> int:
    """Read the task, serve until SIGTERM or until nobody looks after us; the exit status."""
    if sys.stdin.isatty():
        sys.stderr.write("workers are started by `twistd mailserver`, where its configuration has them\n")
        return os.EX_USAGE
    settings, place, quick_start = pickle.load(sys.stdin.buffer)
    _log_to_parent()
    from twisted.internet import reactor

    server = MailServer(settings, reactor, quick_start, place)
    try:
        server.startService()
    except StartFailed as error:
        _report(str(error).encode())
        return 1
    _report(READY)
    run(reactor, server)
    return 0


def run(reactor: Any, server: MailServer) -> None:
    """Serve, and end in good order."""
    reactor.addSystemEventTrigger("before", "shutdown", server.stopService)
    ProcessReader(reactor, Parent(reactor), "parent", INPUT)
    reactor.run()


class Parent:
    """Our standard input: nothing comes from it any more, but its end when the parent is gone."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def childDataReceived(self, name: str, data: bytes) -> None:
        """Nothing is expected."""

    def childConnectionLost(self, name: str, reason: Failure) -> None:
        """Nobody would start us again, nor read our log: end, so that a new server can take the spool."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for descriptor in (OUTPUT, ERRORS):
            os.dup2(nowhere, descriptor)
        os.close(nowhere)
        self._reactor.stop()


def _log_to_parent() -> None:
    output = open(OUTPUT, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    globalLogBeginner.beginLoggingTo([textFileLogObserver(output)])


def _report(octets: bytes) -> None:
    os.write(REPORT, octets)
    os.close(REPORT)


if __name__ == "__main__":
    sys.exit(main())
