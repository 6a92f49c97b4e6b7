"""What the running server answers to the `mailserver` command over its control socket."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from mailserver.control import Control
from mailserver.relay.agent import RelayAgent
from mailserver.relay.knowing import Knowing
from mailserver.relay.tls_memory import TLSMemory


def control_of(
    state: Path,
    reactor: Any,
    relay: RelayAgent,
    hostname: str,
    worker: int,
    tls_memory: TLSMemory | None = None,
) -> Control:
    """The socket of one worker process, with every question that it knows."""
    control = Control(reactor, state, worker)
    knowing = Knowing(reactor, relay, hostname, tls_memory)
    control.answer("why", lambda request: Deferred.fromCoroutine(knowing.why(request)))
    control.answer("forgive", lambda request: Deferred.fromCoroutine(knowing.forgive(request)))
    control.answer("forget", lambda request: Deferred.fromCoroutine(knowing.forget(request)))
    control.answer("route", lambda request: Deferred.fromCoroutine(knowing.route(request)))
    return control
