"""MTA-STS policies at rest: one small file for each domain, read at the start, written behind."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from twisted.logger import Logger
from twisted.python.failure import Failure

from mailserver.durable import Disk
from mailserver.relay.sts_policy import STSPolicy, from_json
from mailserver.threads import Workers, WorkersStopped

log = Logger(namespace="mail")

_FIT = re.compile(r"[a-z0-9_.-]{1,240}", re.ASCII)
"""Domains that can be a file's name as they are; no other ever gets a policy."""
_SUFFIX = ".json"
MOST_FILES = 20_000
LEFT_SECONDS = 3600.0


class PolicyFiles:
    """The folder ``state/mta-sts``. A file that cannot be read is as good as none: the policy is
    fetched again; one that cannot be written costs the protection of the next start, and one line."""

    def __init__(self, folder: Path, disk: Disk, workers: Workers) -> None:
        self._folder = folder
        self._disk = disk
        self._workers = workers

    def load(self) -> list[tuple[str, STSPolicy]]:
        """Everything that was kept; blocks, for the start.

        Raises:
            OSError: the folder cannot be made or read.
        """
        self._disk.make_folder(self._folder)
        kept: list[tuple[str, STSPolicy]] = []
        for path in sorted(self._folder.iterdir())[:MOST_FILES]:
            if path.suffix != _SUFFIX:
                _remove_if_left(path)
                continue
            try:
                domain, policy = from_json(path.read_bytes())
            except (OSError, ValueError) as error:
                log.warn("warning: {path} is of no use: {error}", path=str(path), error=error)
                continue
            if self._path(domain) == path:
                kept.append((domain, policy))
        return kept

    def keep(self, domain: str, policy: STSPolicy) -> None:
        """Write it down soon, whole or not at all."""
        if _FIT.fullmatch(domain):
            self._soon(domain, lambda: self._write(domain, policy))

    def forget(self, domain: str) -> None:
        """Remove it soon."""
        if _FIT.fullmatch(domain):
            self._soon(domain, lambda: self._remove(domain))

    def _soon(self, domain: str, work: Callable[[], None]) -> None:
        self._workers.call(work).addErrback(self._failed, domain)

    def _failed(self, failure: Failure, domain: str) -> None:
        if not failure.check(WorkersStopped):
            log.warn(
                "warning: the MTA-STS policy of {domain} could not be kept: {error}",
                domain=domain,
                error=failure.value,
            )

    def _path(self, domain: str) -> Path:
        return self._folder / (domain + _SUFFIX)

    def _write(self, domain: str, policy: STSPolicy) -> None:
        beside = self._folder / f"{domain}.{secrets.token_hex(4)}"
        self._disk.write(beside, [policy.to_json(domain)])
        self._disk.sync_file(beside)
        self._disk.rename(beside, self._path(domain))
        self._disk.sync_folder(self._folder)

    def _remove(self, domain: str) -> None:
        try:
            self._disk.remove(self._path(domain))
        except FileNotFoundError:
            return
        self._disk.sync_folder(self._folder)


def _remove_if_left(path: Path) -> None:
    """Remove what a crash left of a write; another worker may just be writing its own."""
    try:
        if time.time() - path.stat().st_mtime > LEFT_SECONDS:
            path.unlink()
    except FileNotFoundError:
        pass
