"""Which hosts have done TLS before, so that one who takes it away is noticed; kept on disk."""

from __future__ import annotations

import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from mailserver.durable import Disk
from mailserver.threads import Workers, WorkersStopped
from mailserver.values.address import domain_key
from mailserver.values.text import printable

log = Logger(namespace="mail")

REMEMBERED_SECONDS = 30 * 86400.0
"""How long TLS is expected of a host after it was last seen with it."""
REMEMBERED_HOSTS = 20_000
WRITE_SECONDS = 300.0
"""How long what was learnt waits to be written; a crash forgets at most so much."""
NOTE_SECONDS = 3600.0
"""A host's time is brought up to date, and a warning is repeated, at most so often."""


class TLSMemory:
    """``strict``: mail to a host that had TLS waits until it has it again; else it goes in clear, with a
    warning in the log."""

    def __init__(
        self,
        reactor: Any,
        path: Path,
        disk: Disk,
        workers: Workers,
        strict: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._disk = disk
        self._workers = workers
        self._strict = strict
        self._now = now
        self._seen: OrderedDict[str, float] = OrderedDict()
        self._warned: dict[str, float] = {}
        self._writing: IDelayedCall | None = None

    def load(self) -> None:
        """Read what was kept; blocks, for the start. A file that is of no use is begun anew."""
        try:
            table = json.loads(self._path.read_bytes())
            kept = sorted(((float(at), str(host)) for host, at in table.items()))
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, AttributeError) as error:
            log.warn("warning: {path} is of no use: {error}", path=str(self._path), error=error)
            return
        self._seen = OrderedDict((host, at) for at, host in kept[-REMEMBERED_HOSTS:])

    def save(self) -> None:
        """Write what is known, whole or not at all; blocks."""
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
            self._write(json.dumps(self._seen).encode())

    def insists_on(self, host: str) -> bool:
        """Whether nothing may go to ``host`` in clear."""
        return self._strict and self.knows(host)

    def knows(self, host: str) -> bool:
        """Whether ``host`` did TLS a short time ago."""
        at = self._seen.get(domain_key(host))
        return at is not None and self._now() - at < REMEMBERED_SECONDS

    def seen(self, host: str) -> float:
        """When ``host`` was last noted to do TLS, in seconds since the epoch; 0: never, or too long ago."""
        return self._seen[domain_key(host)] if self.knows(host) else 0.0

    def forget(self, host: str) -> bool:
        """Expect nothing of ``host`` any more; whether anything was."""
        known = self._seen.pop(domain_key(host), None) is not None
        if known:
            self._write_soon()
        return known

    def learn(self, host: str, secured: bool, expected: bool = True) -> None:
        """A session with ``host`` was protected, or was not although it was ``expected`` to be."""
        name, now = domain_key(host), self._now()
        if not secured:
            if expected and self.knows(name):
                self._warn(name, now)
        elif now - self._seen.get(name, 0.0) >= NOTE_SECONDS:
            self._seen[name] = now
            self._seen.move_to_end(name)
            if len(self._seen) > REMEMBERED_HOSTS:
                self._seen.popitem(last=False)
            self._write_soon()

    def _warn(self, name: str, now: float) -> None:
        if now - self._warned.get(name, 0.0) < NOTE_SECONDS:
            return
        if len(self._warned) > 1000:
            self._warned.clear()
        self._warned[name] = now
        log.warn(
            "warning: {host} did TLS before and does not now; {what}",
            host=printable(name),
            what="mail for it waits" if self._strict else "mail goes there in clear",
        )

    def _write_soon(self) -> None:
        if self._writing is None:
            self._writing = self._reactor.callLater(WRITE_SECONDS, self._write_behind)

    def _write_behind(self) -> None:
        self._writing = None
        octets = json.dumps(self._seen).encode()
        self._workers.call(self._write, octets).addErrback(self._failed)

    def _failed(self, failure: Any) -> None:
        if not failure.check(WorkersStopped):
            log.warn("warning: {path} was not written: {error}", path=str(self._path), error=failure.value)

    def _write(self, octets: bytes) -> None:
        beside = self._path.with_name(f"{self._path.name}.{secrets.token_hex(4)}")
        self._disk.write(beside, [octets])
        self._disk.sync_file(beside)
        self._disk.rename(beside, self._path)
        self._disk.sync_folder(self._path.parent)
