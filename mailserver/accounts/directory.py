"""The directory in SQLite: which domains are ours, and who lives there.

Commands write the file while the server reads it: ``resolve`` looks at most every ``FRESH_FOR``
seconds whether another connection has written, and forgets what it remembers when one has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from zope.interface import implementer

from mailserver.accounts.domains import Domains
from mailserver.accounts.errors import (
    AliasLoop,
    AlreadyExists,
    DirectoryError,
    DirectoryUnavailable,
    NotFound,
    UnknownDomain,
    UnusableAddress,
)
from mailserver.accounts.names import SEPARATOR
from mailserver.accounts.resolver import Resolver
from mailserver.accounts.srs import Srs
from mailserver.accounts.users import account_from
from mailserver.interfaces import IDirectory
from mailserver.values.account import Elsewhere, LocalUser, Resolution
from mailserver.values.address import Address

__all__ = [
    "FILE_NAME",
    "FRESH_FOR",
    "AliasLoop",
    "AlreadyExists",
    "DirectoryError",
    "DirectoryUnavailable",
    "NotFound",
    "SqliteDirectory",
    "UnknownDomain",
    "UnusableAddress",
]

FRESH_FOR = 0.5
"""Seconds for which nobody looks whether the file has changed."""

FILE_NAME = "accounts.sqlite"
"""The directory's file in the state folder."""

REMEMBERED = 20_000
"""Addresses whose resolution is kept in memory; about 10 MB at most."""

REMEMBERED_ELSEWHERE = 1000
"""Addresses of other domains: a message asks for its own four times."""


@implementer(IDirectory)
class SqliteDirectory(Domains):
    """Domains, users, aliases and lists in the SQLite file at ``path``; ``domains`` are those of the
    configuration, the first one is the domain of a bare ``Postmaster``.

    Nothing is opened before ``open``.  ``resolve`` and ``password_hash`` may be called from any
    thread.  ``clock`` gives seconds and never goes back; ``patience`` is how many seconds to wait
    for somebody else who writes; each of ``separators`` separates a name from its detail; ``srs``
    knows rewritten reverse-paths; ``now`` gives seconds since the epoch; ``hostname`` is the server's.
    """

    def __init__(
        self,
        path: Path,
        domains: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
        patience: float = 1.0,
        separators: str = SEPARATOR,
        srs: Srs | None = None,
        now: Callable[[], float] = time.time,
        hostname: str = "",
    ) -> None:
        super().__init__(path, domains, patience, now)
        self._clock = clock
        self._fresh_until = 0.0
        self._separators = separators
        self._resolver = Resolver(self, lambda: self._domains, separators, srs, hostname)

    def resolve(self, address: Address) -> Resolution:
        """Who an address belongs to, without expanding aliases; ``resolver.Resolver`` has the order.

        Raises:
            DirectoryUnavailable: the file cannot be read.
        """
        now = self._clock()
        if now >= self._fresh_until:
            self._look_for_changes()
            self._fresh_until = now + FRESH_FOR
        wanted = (address.local, address.domain)
        answer = self._known.get(wanted) or self._elsewhere.get(wanted)
        if answer is None:
            with self._lock:
                answer, lasts = self._resolver.resolve(address)
                # Names that nobody here has are a stranger's to choose: they must not push out the others.
                if lasts:
                    _remember(self._known, wanted, answer, REMEMBERED)
                elif isinstance(answer, Elsewhere) and answer.address is address:
                    _remember(self._elsewhere, wanted, answer, REMEMBERED_ELSEWHERE)
        return answer

    def exact(self, address: Address, key: str, domain: str) -> tuple[Resolution | None, bool]:
        """See ``resolver.Names``."""
        if row := self._account_row(key, domain):
            account = account_from(row)
            if not account.deliver and (delivery := self.domain(domain)[1]):
                account = replace(account, deliver=delivery)
            return LocalUser(account), True
        alias, lasts = self._exact_alias(address, key, domain)
        if alias is not None:
            return alias, lasts
        return self.list_of(key, domain), True


def _remember(
    known: dict[tuple[str, str], Resolution], wanted: tuple[str, str], answer: Resolution, most: int
) -> None:
    """Keep an answer, in the place of the oldest where there are enough."""
    if len(known) >= most:
        del known[next(iter(known))]
    known[wanted] = answer
