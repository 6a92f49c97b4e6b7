"""Tells systemd that the server is ready, that it lives, and that it stops (sd_notify(3))."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

from twisted.application.service import Service
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

log = Logger(namespace="mailserver")


class Notifying(Service):
    """Says READY when the reactor runs, which is after every room is open; then WATCHDOG twice in each
    period that systemd allows, from the reactor itself, so that one that hangs is started again."""

    name = "systemd"

    def __init__(self, reactor: Any, environment: Mapping[str, str] = os.environ) -> None:
        self._reactor = reactor
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._period = _watchdog_seconds(environment)
        self._living = LoopingCall(self._say, "WATCHDOG=1")
        self._living.clock = reactor

    @property
    def is_wanted(self) -> bool:
        """Whether systemd listens."""
        return bool(self._address)

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._reactor.callWhenRunning(self._ready)
        # Not in stopService, which comes when the last session has ended.
        self._reactor.addSystemEventTrigger("before", "shutdown", self._say, "STOPPING=1")

    def stopService(self) -> None:
        super().stopService()  # type: ignore[no-untyped-call]
        if self._living.running:
            self._living.stop()

    def _ready(self) -> None:
        self._say("READY=1")
        if self._period:
            self._living.start(self._period / 2)

    def _say(self, what: str) -> None:
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as saying:
                saying.setblocking(False)
                saying.sendto(what.encode(), address)
        except OSError as error:
            log.warn("systemd cannot be told {what}: {why}", what=what, why=str(error))


def _watchdog_seconds(environment: Mapping[str, str]) -> float:
    """How long systemd waits between two signs of life; 0 where it does not, or means another process."""
    try:
        if int(environment.get("WATCHDOG_PID", os.getpid())) != os.getpid():
            return 0.0
        return int(environment.get("WATCHDOG_USEC", "0")) / 1e6
    except ValueError:
        return 0.0
