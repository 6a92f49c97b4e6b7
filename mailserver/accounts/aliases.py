"""Aliases: to whom an address leads, for how long, and that none leads back to itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mailserver.accounts.errors import AliasLoop, DirectoryError, NotFound, UnusableAddress
from mailserver.accounts.names import local_key, without_detail
from mailserver.accounts.resolver import Resolver
from mailserver.accounts.users import Users
from mailserver.values.account import Alias, Elsewhere, LocalUser, MailingList
from mailserver.values.address import Address, domain_key
from mailserver.values.deliveries import checked_delivery, delivery_in

MOST_WAYS = 100_000
"""Addresses that are looked at before an alias is found to be one mistake too many."""


@dataclass(frozen=True, slots=True)
class AliasFacts:
    """An alias as the administrator sees it; ``until`` in seconds since the epoch, 0 for always."""

    address: Address
    targets: tuple[Address, ...]
    until: float = 0.0
    owner: str = ""


class Aliases(Users):
    """The aliases of a directory file."""

    _resolver: Resolver

    def aliases(self) -> tuple[Alias, ...]:
        """Every alias with its targets, by domain and name."""
        return tuple(Alias(facts.address, facts.targets) for facts in self.alias_facts())

    def alias_facts(self) -> tuple[AliasFacts, ...]:
        """The same, with their end and owner."""
        sql = "SELECT id, local, domain, until, owner FROM alias ORDER BY domain_key, local_key"
        return tuple(
            AliasFacts(Address(local, domain), self._targets(number), until or 0.0, owner)
            for number, local, domain, until, owner in self._rows(sql)
        )

    def aliases_to(self, address: Address) -> tuple[Address, ...]:
        """The aliases that name ``address`` as a target."""
        wanted = self._key(address)
        return tuple(a.address for a in self.aliases() if any(self._key(t) == wanted for t in a.targets))

    def add_alias(
        self,
        address: Address,
        targets: Sequence[Address],
        until: float = 0.0,
        owner: Address | None = None,
    ) -> Alias:
        """Let an address stand for others, here or elsewhere, or for deliveries (``values.deliveries``
        ``as_target``); a target here must exist. ``until``: seconds since the epoch, 0 for always;
        ``owner`` is a user here, who answers at ``NAME-owner`` and ``NAME-request``.

        Raises:
            UnknownDomain, UnusableAddress, AlreadyExists, NotFound, AliasLoop: as they say; nothing
                was made.
        """
        if not targets:
            raise DirectoryError(f"alias {address} needs at least one target")
        for target in targets:
            self._check_words(target)
        if until and until <= self._now():
            raise DirectoryError(f"alias {address} would have ended already")
        with self._change() as connection:
            local, domain = self._ours(address)
            own = Address(local, domain)
            self._remove_ended(self._key(own))
            self._check_free(own)
            for target in targets:
                self._check_target(own, target)
            alias = connection.execute(
                "INSERT INTO alias (local, domain, local_key, domain_key, until, owner)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (local, domain, local_key(local), domain_key(domain), until or None, self._owner(owner)),
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

    def sweep(self) -> tuple[Address, ...]:
        """Remove aliases whose time is over; which they were."""
        ended = "FROM alias WHERE until <= ?"
        if not self._rows(f"SELECT 1 {ended} LIMIT 1", self._now()):
            return ()
        with self._change() as connection:
            gone = self._rows(f"SELECT local, domain {ended}", self._now())
            connection.execute(f"DELETE {ended}", (self._now(),))
        return tuple(Address(*row) for row in gone)

    def owner_of(self, key: str, domain: str) -> str:
        """See ``resolver.Names``."""
        sql = "SELECT owner FROM alias WHERE local_key = ? AND domain_key = ? AND coalesce(until > ?, 1)"
        rows = self._rows(sql, key, domain, self._now())
        return str(rows[0][0]) if rows else ""

    def names_delivery(self, text: str) -> bool:
        """See ``resolver.Names``."""
        return bool(self._rows("SELECT 1 FROM target WHERE local = ? AND domain = '' LIMIT 1", text))

    def _exact_alias(self, address: Address, key: str, domain: str) -> tuple[Alias | None, bool]:
        sql = "SELECT id, until FROM alias WHERE local_key = ? AND domain_key = ?"
        for number, until in self._rows(sql, key, domain):
            if until is None or until > self._now():
                return Alias(address, self._targets(number)), until is None
        return None, False

    def _targets(self, alias: int) -> tuple[Address, ...]:
        sql = "SELECT local, domain FROM target WHERE alias = ? ORDER BY number"
        return tuple(Address(*row) for row in self._rows(sql, alias))

    def _owner(self, owner: Address | None) -> str:
        if owner is None:
            return ""
        answer, _ = self._resolver.resolve(owner)
        if not isinstance(answer, LocalUser):
            raise NotFound(f"the owner {owner} is not a user here; `mailserver user list` shows them")
        return str(answer.account.address)

    def _remove_ended(self, key: tuple[str, str]) -> None:
        """Its name is free again, also where nobody has swept yet."""
        self._rows(
            "DELETE FROM alias WHERE local_key = ? AND domain_key = ? AND until <= ?", *key, self._now()
        )

    def _check_words(self, target: Address) -> None:
        if not str(target).isprintable():
            raise UnusableAddress(f"{str(target)!r} holds characters that cannot be printed")
        if not target.domain:
            try:
                checked_delivery(target.local)
            except ValueError as error:
                raise DirectoryError(str(error)) from None

    def _check_target(self, alias: Address, target: Address) -> None:
        """A target here must exist, and must not lead back to the alias."""
        waiting, seen = [target], set[tuple[str, str]]()
        while waiting and len(seen) < MOST_WAYS:
            current = waiting.pop()
            key = self._key(current)
            if key in seen or delivery_in(current):
                continue
            seen.add(key)
            answer, _ = self._resolver.resolve(current)
            # The alias's own name is a loop also while a user's detail answers to it.
            if key != self._key(alias) and isinstance(answer, LocalUser | Elsewhere):
                continue
            if self._is_or_has_detail_of(alias, key):
                raise AliasLoop(f"{alias} would lead back to itself through {target}")
            if isinstance(answer, Alias):
                waiting += answer.targets
            elif isinstance(answer, MailingList):
                waiting += answer.members
            elif current is target:
                raise NotFound(f"{target} is neither a user nor an alias here; add it first")

    def _is_or_has_detail_of(self, alias: Address, key: tuple[str, str]) -> bool:
        local, domain = self._key(alias)
        return key[1] == domain and local in (key[0], without_detail(key[0], self._separators))

    _separators: str
