"""The directory: which domains are ours, and who lives there; users and aliases in SQLite.

Commands write the file while the server reads it: ``resolve`` looks at most every ``FRESH_FOR``
seconds whether another connection has written, and forgets what it remembers when one has.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zope.interface import implementer

from mailserver.accounts import tables
from mailserver.accounts.names import check_local, local_key, without_detail
from mailserver.interfaces import IDirectory
from mailserver.values.account import Account, Alias, Elsewhere, LocalUser, NoSuchUser, Resolution, Secrets
from mailserver.values.address import Address, domain_key
from mailserver.words import LANGUAGES

FRESH_FOR = 0.5
"""Seconds for which nobody looks whether the file has changed."""

FILE_NAME = "accounts.sqlite"
"""The directory's file in the state folder."""

REMEMBERED = 20_000
"""Addresses whose resolution is kept in memory; about 10 MB at most."""

_POSTMASTER = "postmaster"
_Row = tuple[Any, ...]
_ACCOUNTS = "SELECT local, domain, format, send_as, language, password, scram, sealed FROM account"
_FORMATS = ("", "maildir", "mbox")


class DirectoryError(Exception):
    """A change was refused and nothing was changed; the text says why and what to do."""


class AlreadyExists(DirectoryError):
    """The address is a user or an alias already."""


class UnknownDomain(DirectoryError):
    """The domain is not one of ours."""


class NotFound(DirectoryError):
    """There is no such user or alias."""


class AliasLoop(DirectoryError):
    """The alias would lead back to itself."""


class UnusableAddress(DirectoryError):
    """The local part cannot be an account's or alias's."""


class DirectoryUnavailable(Exception):
    """The file cannot be read or written now: a local fault, to be answered with 4xx."""


@implementer(IDirectory)
class SqliteDirectory:
    """Users and aliases in the SQLite file at ``path``; ``domains`` are ours, the first one is the
    domain of a bare ``Postmaster``.

    Nothing is opened before ``open``.  ``resolve`` and ``password_hash`` may be called from any
    thread.  ``clock`` gives seconds and never goes back; ``patience`` is how many seconds to wait
    for somebody else who writes.
    """

    def __init__(
        self,
        path: Path,
        domains: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
        patience: float = 1.0,
    ) -> None:
        self._path = path
        self._domains = {domain_key(domain): domain for domain in domains}
        self._clock = clock
        self._patience = patience
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._known: dict[tuple[str, str], Resolution] = {}
        self._fresh_until = 0.0
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

    def close(self) -> None:
        """Close the file. Harmless twice."""
        with self._lock:
            self._known.clear()
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    # -- questions ---------------------------------------------------------------------------------

    def resolve(self, address: Address) -> Resolution:
        """Who an address belongs to, without expanding aliases.

        The local part as it is comes first, then without its ``+detail``. Postmaster is never
        refused (RFC 5321 §4.5.1): where a domain has neither user nor alias of that name, its first
        user stands in, then the first user of all; with no user at all a mailbox ``postmaster`` is
        kept for whoever comes.

        Raises:
            DirectoryUnavailable: the file cannot be read.
        """
        now = self._clock()
        if now >= self._fresh_until:
            self._look_for_changes(now)
        wanted = (address.local, address.domain)
        answer = self._known.get(wanted)
        if answer is None:
            with self._lock:
                answer = self._resolve(address)
                # Names that nobody has are a stranger's to choose: they must not push out the others.
                if isinstance(answer, LocalUser | Alias):
                    if len(self._known) >= REMEMBERED:
                        del self._known[next(iter(self._known))]
                    self._known[wanted] = answer
        return answer

    def password_hash(self, login: str) -> tuple[Account, str] | None:
        """The account behind a full address, or behind a local part that only one of our domains has.

        Raises:
            DirectoryUnavailable: the file cannot be read.
        """
        found = self.secrets(login)
        return None if found is None else (found[0], found[1].password_hash)

    def secrets(self, login: str) -> tuple[Account, Secrets] | None:
        """As ``password_hash``, with everything that is kept of the password."""
        local, at, domain = login.strip().rpartition("@")
        wanted = [(local, domain_key(domain))] if at else [(domain, ours) for ours in self._domains]
        rows = [self._account_row(local_key(name), key) for name, key in wanted if key in self._domains]
        found = [row for row in rows if row is not None]
        if len(found) != 1:
            return None
        *_, password, scram, sealed = found[0]
        return _account(found[0]), Secrets(password, json.loads(scram), sealed)

    def users(self) -> tuple[Account, ...]:
        """Every account, by domain and name."""
        return tuple(_account(row) for row in self._rows(f"{_ACCOUNTS} ORDER BY domain_key, local_key"))

    def aliases(self) -> tuple[Alias, ...]:
        """Every alias with its targets, by domain and name."""
        sql = "SELECT id, local, domain FROM alias ORDER BY domain_key, local_key"
        return tuple(
            Alias(Address(local, domain), self._targets(number)) for number, local, domain in self._rows(sql)
        )

    def aliases_to(self, address: Address) -> tuple[Address, ...]:
        """The aliases that name ``address`` as a target."""
        wanted = self._key(address)
        return tuple(a.address for a in self.aliases() if any(self._key(t) == wanted for t in a.targets))

    # -- changes -----------------------------------------------------------------------------------

    def add_user(self, address: Address, secrets: Secrets | str, format: str = "") -> Account:
        """Make an account; ``format`` is ``"maildir"``, ``"mbox"``, or ``""`` for the store's own.

        ``secrets`` are ``accounts.secrets.secrets_of`` a password.  An Argon2id hash alone, from
        elsewhere for example, is enough for PLAIN, LOGIN and USER, and for nothing else.

        Raises:
            UnknownDomain, UnusableAddress, AlreadyExists: as they say; nothing was made.
        """
        local, domain = self._ours(address)
        kept = _checked(secrets)
        if format not in _FORMATS:
            raise DirectoryError(f"{format!r} is not a format of mailboxes; there are maildir and mbox")
        with self._change() as connection:
            self._check_free(Address(local, domain))
            connection.execute(
                "INSERT INTO account (local, domain, local_key, domain_key, format, password, scram, sealed)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (local, domain, local_key(local), domain_key(domain), format, *kept),
            )
        return Account(Address(local, domain), format)

    def set_password(self, address: Address, secrets: Secrets | str) -> None:
        """Give an account another password, as in ``add_user``.

        Raises:
            NotFound: there is no such account.
        """
        self._update(address, "password = ?, scram = ?, sealed = ?", _checked(secrets))

    def allow_senders(self, address: Address, patterns: Sequence[str]) -> None:
        """What an account may send as beside its own addresses: addresses, ``@domain``, or ``*``.

        Raises:
            NotFound: there is no such account.
            UnusableAddress: one of ``patterns`` is neither of them.
        """
        for pattern in patterns:
            if not _is_sender_pattern(pattern):
                raise UnusableAddress(f"{pattern!r} is no sender; expected an address, @domain or *")
        self._update(address, "send_as = ?", (json.dumps(list(dict.fromkeys(patterns)), ensure_ascii=False),))

    def set_language(self, address: Address, language: str) -> None:
        """What the user of an account reads: a tag of ``words.LANGUAGES``, ``""`` for the server's own.

        Raises:
            NotFound: there is no such account.
            DirectoryError: nobody here speaks it.
        """
        if language and language not in LANGUAGES:
            raise DirectoryError(f"{language!r} is not spoken here; there are {', '.join(LANGUAGES)}")
        self._update(address, "language = ?", (language,))

    def _update(self, address: Address, columns: str, values: Sequence[object]) -> None:
        with self._change() as connection:
            changed = connection.execute(
                f"UPDATE account SET {columns} WHERE local_key = ? AND domain_key = ?",
                (*values, *self._key(address)),
            )
            if changed.rowcount == 0:
                raise NotFound(f"{address} is not a user; `mailserver user list` shows them")

    def remove_user(self, address: Address) -> None:
        """Remove an account. Its mail stays in the store, and is there again when the account is.

        Raises:
            NotFound: there is no such account.
        """
        with self._change() as connection:
            gone = connection.execute(
                "DELETE FROM account WHERE local_key = ? AND domain_key = ?", self._key(address)
            )
            if gone.rowcount == 0:
                raise NotFound(f"{address} is not a user; `mailserver user list` shows them")

    def add_alias(self, address: Address, targets: Sequence[Address]) -> Alias:
        """Let an address stand for others, here or elsewhere; a target here must exist.

        Raises:
            UnknownDomain, UnusableAddress, AlreadyExists, NotFound, AliasLoop: as they say; nothing
                was made.
        """
        if not targets:
            raise DirectoryError(f"alias {address} needs at least one target")
        local, domain = self._ours(address)
        for target in targets:
            if not str(target).isprintable():
                raise UnusableAddress(f"{str(target)!r} holds characters that cannot be printed")
        own = Address(local, domain)
        with self._change() as connection:
            self._check_free(own)
            for target in targets:
                self._check_target(own, target)
            alias = connection.execute(
                "INSERT INTO alias (local, domain, local_key, domain_key) VALUES (?, ?, ?, ?)",
                (local, domain, local_key(local), domain_key(domain)),
            ).lastrowid
            distinct = {target.key: target for target in targets}.values()
            rows = [(alias, n, target.local, target.domain) for n, target in enumerate(distinct)]
            connection.executemany("INSERT INTO target VALUES (?, ?, ?, ?)", rows)
        return Alias(own, tuple(distinct))

    def remove_alias(self, address: Address) -> None:
        """Remove an alias.

        Raises:
            NotFound: there is no such alias.
        """
        with self._change() as connection:
            gone = connection.execute(
                "DELETE FROM alias WHERE local_key = ? AND domain_key = ?", self._key(address)
            )
            if gone.rowcount == 0:
                raise NotFound(f"{address} is not an alias; `mailserver alias list` shows them")

    # -- inside: questions ---------------------------------------------------------------------------

    def _resolve(self, address: Address) -> Resolution:
        key = local_key(address.local)
        domain = domain_key(address.domain)
        if not address.domain:
            if key != _POSTMASTER:
                return NoSuchUser(address)
            domain = next(iter(self._domains))
        elif domain not in self._domains:
            return Elsewhere(address)
        found = self._exact(address, key, domain)
        if found is None and (name := without_detail(key)) is not None:
            key = name
            found = self._exact(address, key, domain)
        if found is None and key == _POSTMASTER:
            found = self._postmaster(address, domain)
        return found or NoSuchUser(address)

    def _exact(self, address: Address, key: str, domain: str) -> Resolution | None:
        if row := self._account_row(key, domain):
            return LocalUser(_account(row))
        sql = "SELECT id FROM alias WHERE local_key = ? AND domain_key = ?"
        for (number,) in self._rows(sql, key, domain):
            return Alias(address, self._targets(number))
        return None

    def _postmaster(self, address: Address, domain: str) -> Resolution:
        # The first user of this domain, else of the first of our other domains that has one.
        for candidate in (domain, *self._domains):
            for row in self._rows(f"{_ACCOUNTS} WHERE domain_key = ? ORDER BY id LIMIT 1", candidate):
                return Alias(address, (_account(row).address,))
        return LocalUser(Account(Address(_POSTMASTER, self._domains[domain])))

    def _account_row(self, key: str, domain: str) -> _Row | None:
        rows = self._rows(f"{_ACCOUNTS} WHERE local_key = ? AND domain_key = ?", key, domain)
        return rows[0] if rows else None

    def _targets(self, alias: int) -> tuple[Address, ...]:
        sql = "SELECT local, domain FROM target WHERE alias = ? ORDER BY number"
        return tuple(Address(*row) for row in self._rows(sql, alias))

    def _rows(self, sql: str, *arguments: object) -> list[_Row]:
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

    def _look_for_changes(self, now: float) -> None:
        with self._lock:
            ((version,),) = self._rows("PRAGMA data_version")
            if version != self._data_version:
                self._known.clear()
                self._data_version = version
            self._fresh_until = now + FRESH_FOR

    # -- inside: changes -----------------------------------------------------------------------------

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One transaction; what this object remembers is forgotten, for data_version tells only of
        other connections."""
        with self._lock:
            connection = self._opened()
            try:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise DirectoryUnavailable(f"{self._path}: {error}") from error
            finally:
                self._known.clear()

    def _key(self, address: Address) -> tuple[str, str]:
        return local_key(address.local), domain_key(address.domain)

    def _ours(self, address: Address) -> tuple[str, str]:
        """Local part in NFC, and our own spelling of the domain."""
        domain = self._domains.get(domain_key(address.domain))
        if domain is None:
            known = ", ".join(self._domains.values())
            raise UnknownDomain(f"{address.domain} is not a domain of this server; domains = [{known}]")
        try:
            return check_local(address.local), domain
        except ValueError as error:
            raise UnusableAddress(f"the local part {error}") from None

    def _check_free(self, address: Address) -> None:
        found = self._exact(address, *self._key(address))
        if isinstance(found, LocalUser):
            raise AlreadyExists(f"{found.account.address} exists already, as a user")
        if found is not None:
            raise AlreadyExists(f"{address} exists already, as an alias; remove it first to change it")

    def _check_target(self, alias: Address, target: Address) -> None:
        """A target here must exist, and must not lead back to the alias."""
        waiting, seen = [target], set[tuple[str, str]]()
        while waiting:
            current = waiting.pop()
            key = self._key(current)
            if key in seen:
                continue
            seen.add(key)
            answer = self._resolve(current)
            # The alias's own name is a loop also while a user's detail answers to it.
            if key != self._key(alias) and isinstance(answer, LocalUser | Elsewhere):
                continue
            if self._is_or_has_detail_of(alias, key):
                raise AliasLoop(f"{alias} would lead back to itself through {target}")
            if isinstance(answer, Alias):
                waiting += answer.targets
            elif current is target:
                raise NotFound(f"{target} is neither a user nor an alias here; add it first")

    def _is_or_has_detail_of(self, alias: Address, key: tuple[str, str]) -> bool:
        local, domain = self._key(alias)
        return key[1] == domain and local in (key[0], without_detail(key[0]))


def _account(row: _Row) -> Account:
    local, domain, format, send_as, language, *_ = row
    return Account(Address(local, domain), format, tuple(json.loads(send_as)), language)


def _checked(secrets: Secrets | str) -> tuple[str, str, str]:
    """The columns password, scram and sealed."""
    kept = Secrets(secrets) if isinstance(secrets, str) else secrets
    # A password that is stored as it is would work for nobody and be read by everybody.
    if not kept.password_hash.startswith("$argon2id$"):
        raise ValueError("expected an Argon2id hash; see accounts.secrets.secrets_of")
    return kept.password_hash, json.dumps(dict(kept.scram)), kept.cram_md5


def _is_sender_pattern(pattern: str) -> bool:
    local, at, domain = pattern.rpartition("@")
    printable = pattern.isprintable() and " " not in pattern
    return pattern == "*" or (bool(at and domain) and printable and "@" not in local)
