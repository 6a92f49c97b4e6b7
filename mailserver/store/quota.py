"""How much a user and a domain may keep: asked before each delivery, known at RCPT without the disk."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock

from mailserver.interfaces import MailboxFull
from mailserver.store import maildirsize
from mailserver.store.maildirsize import Usage
from mailserver.store.sweep import mailboxes_of

WARN_AT = (80, 95)
"""Percent of a user's quota; each is told once, and again only after the mailbox was emptied below it."""

_KNOWN_SECONDS = 60.0
_DOMAIN_SECONDS = 300.0


@dataclass(frozen=True)
class QuotaLimits:
    """Octets and messages for each user, octets for whom ``named`` has: ``ada@example.test`` for a user,
    ``@example.test`` for a whole domain; 0 is no limit.  ``refuse``: mail for a full mailbox is returned
    at once, not delayed."""

    octets: int = 0
    messages: int = 0
    named: Mapping[str, int] = field(default_factory=dict)
    refuse: bool = False

    def __bool__(self) -> bool:
        return bool(self.octets or self.messages or self.named)


class DomainUsage:
    """What all mailboxes of a domain hold, counted now and then and kept by additions meanwhile."""

    def __init__(self, folder: str, octets: int) -> None:
        self.limit = octets
        self._folder = folder
        self._octets = 0
        self._counted = 0.0
        self._lock = Lock()

    def holds(self) -> int:
        """Octets; reads the disk when the last count is old."""
        with self._lock:
            if not self._counted or time.monotonic() - self._counted > _DOMAIN_SECONDS:
                self._octets = sum(_octets_of(path) for path in mailboxes_of(self._folder))
                self._counted = time.monotonic()
            return self._octets

    def add(self, octets: int) -> None:
        """A mailbox has grown, or shrunk."""
        with self._lock:
            self._octets += octets

    def is_full(self) -> bool:
        """From what is known: never waits for the disk."""
        return self._octets >= self.limit


class MailboxQuota:
    """One user's. ``over`` may be asked by any thread; everything else only where waiting is allowed."""

    def __init__(
        self,
        path: str,
        octets: int,
        limits: QuotaLimits,
        domain: DomainUsage | None,
        later: ThreadPoolExecutor,
        warn: Callable[[int], None],
    ) -> None:
        """``octets``: 0 for no limit; ``warn`` is called with a percentage over which it has grown."""
        self._path = path
        self.octets = octets
        self._messages = limits.messages
        self._refuse = limits.refuse
        self._domain = domain
        self._later = later
        self._warn = warn
        self._definition = ",".join(
            f"{limit}{unit}" for limit, unit in ((octets, "S"), (limits.messages, "C")) if limit
        )
        self._usage: Usage = (0, 0)
        self._known = 0.0
        self._stamp: tuple[int, int] = (0, 0)
        self._warned: set[int] | None = None
        self._lock = Lock()

    def over(self) -> bool:
        """Whether there is room for nothing more, from what is known; it is looked up for the next time."""
        if time.monotonic() - self._known > _KNOWN_SECONDS or not self._known:
            self._known = time.monotonic()
            with suppress(RuntimeError):  # the store is being stopped
                self._later.submit(self._look)
        return self._is_full(0, 1) or (self._domain is not None and self._domain.is_full())

    def admit(self, octets: int) -> None:
        """Raise ``MailboxFull`` when so many octets more do not fit."""
        self._look()
        if self._is_full(octets, 1) and self._is_maildir() and maildirsize.may_be_stale(self._path):
            with self._lock:
                self._count()
        if self._is_full(octets, 1):
            raise MailboxFull("the mailbox is full", self._refuse)
        if self._domain is not None and self._domain.holds() + octets > self._domain.limit:
            raise MailboxFull("the mailboxes of the domain are full", self._refuse)

    def add(self, octets: int, messages: int, warns: bool = True) -> None:
        """Messages were delivered, or, with numbers below 0, removed; without ``warns`` the next ``warn``
        tells the user."""
        if self._domain is not None:
            self._domain.add(octets)
        with self._lock:
            before = self._usage
            self._usage = (max(0, before[0] + octets), max(0, before[1] + messages))
            grown = maildirsize.add(self._path, octets, messages) if self._is_maildir() else octets
            now = self._stamp_now()
            if now[0] == self._stamp[0] + grown:  # else others have written too
                self._stamp = now
        if warns:
            self.warn()

    def warn(self) -> None:
        """Tell the user what the mailbox has grown over since this was last asked."""
        with self._lock:
            crossed = self._crossed()
        if crossed:
            self._warn(max(crossed))

    def forget(self) -> None:
        """Something has happened of which the octets are not known: count anew when next asked."""
        with self._lock:
            self._stamp = (-1, -1)
            if self._is_maildir():
                with suppress(OSError):
                    os.unlink(f"{self._path}/{maildirsize.NAME}")

    def _look(self) -> None:
        with self._lock:
            stamp = self._stamp_now()
            if stamp != self._stamp or stamp == (0, 0):
                usage = maildirsize.read(self._path, self._definition) if self._is_maildir() else None
                if usage is None:
                    self._count()
                else:
                    self._usage, self._stamp = usage, stamp
                if self._warned is None:
                    self._warned = {percent for percent in WARN_AT if self._percent() >= percent}
            self._known = time.monotonic()

    def _count(self) -> None:
        if not self._is_maildir():
            self._usage = mbox_usage(self._path, bool(self._messages))
        elif os.path.isdir(self._path):
            self._usage = maildirsize.count(self._path)
            with suppress(OSError):
                maildirsize.write(self._path, self._definition, self._usage)
        else:
            self._usage = (0, 0)
        self._stamp = self._stamp_now()

    def _is_full(self, octets: int, messages: int) -> bool:
        now, count = self._usage
        too_long = self.octets and (now + octets > self.octets or (not octets and now >= self.octets))
        return bool(too_long or (self._messages and count + messages > self._messages))

    def _percent(self) -> float:
        shares = [
            100 * have / limit for have, limit in zip(self._usage, self._limits(), strict=True) if limit
        ]
        return max(shares, default=0.0)

    def _limits(self) -> Usage:
        return self.octets, self._messages

    def _crossed(self) -> set[int]:
        now = self._percent()
        warned = self._warned or set()
        self._warned = {percent for percent in WARN_AT if now >= percent}
        return self._warned - warned

    def _is_maildir(self) -> bool:
        return not self._path.endswith(".mbox")

    def _stamp_now(self) -> tuple[int, int]:
        try:
            now = os.stat(self._path if not self._is_maildir() else f"{self._path}/{maildirsize.NAME}")
        except OSError:
            return (0, 0)
        return now.st_size, now.st_mtime_ns


def mbox_usage(path: str, counting: bool) -> Usage:
    """An mbox's octets, and its messages if somebody wants to know: that takes reading it."""
    from mailserver.store.mbox_file import regions
    from mailserver.store.octets import open_regular

    try:
        fd = open_regular(path)
    except FileNotFoundError:
        return (0, 0)
    try:
        size = os.fstat(fd).st_size
        return size, len(regions(fd, size)) if counting else 0
    finally:
        os.close(fd)


def _octets_of(path: str) -> int:
    with suppress(OSError):
        return os.stat(path).st_size if path.endswith(".mbox") else maildirsize.count(path)[0]
    return 0
