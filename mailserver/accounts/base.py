"""The directory's open file: reading it, changing it in one transaction, and knowing our domains."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mailserver.accounts import tables
from mailserver.accounts.errors import DirectoryUnavailable, UnknownDomain, UnusableAddress
from mailserver.accounts.names import check_local, local_key
from mailserver.values.account import Resolution
from mailserver.values.address import Address, domain_key

Row = tuple[Any, ...]


class DirectoryFile:
    """The SQLite file at ``path``; what is remembered of it is forgotten when it changes.

    ``configured`` are the domains that the configuration names, the first one is the domain of a bare
    ``Postmaster``; ``now`` gives seconds since the epoch.
    """

    def __init__(
        self,
        path: Path,
        configured: Sequence[str],
        patience: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._configured = {domain_key(domain): domain for domain in configured}
        self._domains: Mapping[str, str] = self._configured
        self._patience = patience
        self._now = now
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._known: dict[tuple[str, str], Resolution] = {}
        self._elsewhere: dict[tuple[str, str], Resolution] = {}
        self._data_version = -1

    def open(self) -> None:
        """Open the file, making it when it is absent.

        Raises:
            DirectoryUnavailable: it cannot be opened; the text names the file and the reason.
        """
        try:
            self._connection = tables.connect(self._path, self._patience)
        except (OSError, sqlite3.Error) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise DirectoryUnavailable(f"{self._path}: {reason}") from error
        except tables.NewerSchema as error:
            raise DirectoryUnavailable(str(error)) from error
        self._forget()

    def close(self) -> None:
        """Close the file. Harmless twice."""
        with self._lock:
            self._clear()
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    # -- reading -----------------------------------------------------------------------------------

    def _rows(self, sql: str, *arguments: object) -> list[Row]:
        with self._lock:
            try:
                return self._opened().execute(sql, arguments).fetchall()
            except sqlite3.Error as error:
                raise DirectoryUnavailable(f"{self._path}: {error}") from error
            except UnicodeEncodeError:
                return []  # a lone surrogate: in nobody's name

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise DirectoryUnavailable(f"{self._path}: not open")
        return self._connection

    def _look_for_changes(self) -> None:
        """Forget what is remembered when another connection has written."""
        with self._lock:
            ((version,),) = self._rows("PRAGMA data_version")
            if version != self._data_version:
                self._forget()
                self._data_version = version

    def _clear(self) -> None:
        self._known.clear()
        self._elsewhere.clear()

    def _forget(self) -> None:
        self._clear()
        added = self._rows("SELECT domain_key, domain FROM domain WHERE added ORDER BY domain_key")
        self._domains = {
            **self._configured,
            **{key: name for key, name in added if key not in self._configured},
        }

    # -- changing ----------------------------------------------------------------------------------

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One transaction; what this object remembers is forgotten, for data_version tells only of
        other connections."""
        with self._lock:
            connection = self._opened()
            try:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    self._forget()  # somebody else may have added the domain that is meant
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise DirectoryUnavailable(f"{self._path}: {error}") from error
            finally:
                self._clear()
            self._forget()

    def _key(self, address: Address) -> tuple[str, str]:
        return local_key(address.local), domain_key(address.domain)

    def _ours(self, address: Address) -> tuple[str, str]:
        """Local part in NFC, and our own spelling of the domain."""
        domain = self._domains.get(domain_key(address.domain))
        if domain is None:
            known = ", ".join(self._domains.values())
            raise UnknownDomain(
                f"{address.domain} is not a domain of this server; domains = [{known}], or "
                f"`mailserver domain add {address.domain}`"
            )
        try:
            return check_local(address.local), domain
        except ValueError as error:
            raise UnusableAddress(f"the local part {error}") from None
