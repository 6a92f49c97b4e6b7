"""Domains: those of the configuration, those that a command has added, and what holds in each."""

from __future__ import annotations

from dataclasses import dataclass

from mailserver.accounts.errors import AlreadyExists, DirectoryError, NotFound, UnknownDomain
from mailserver.accounts.lists import Lists
from mailserver.accounts.resolver import EVERY_NAME
from mailserver.accounts.users import checked
from mailserver.values.address import Address, address_from, domain_key


@dataclass(frozen=True, slots=True)
class DomainFacts:
    """``added``: by a command; ``catch_all``: an address, ``*`` or ``""``; ``deliver`` as in ``Account``."""

    name: str
    added: bool = False
    catch_all: str = ""
    deliver: str = ""


class Domains(Lists):
    """The domains of a directory file."""

    def domain(self, domain: str) -> tuple[str, str]:
        """See ``resolver.Names``."""
        rows = self._rows("SELECT catch_all, deliver FROM domain WHERE domain_key = ?", domain)
        return rows[0] if rows else ("", "")

    def domain_facts(self) -> tuple[DomainFacts, ...]:
        """Every domain, in the order of the configuration, then those that were added."""
        with self._lock:
            self._forget()
            return tuple(
                DomainFacts(name, key not in self._configured, *self.domain(key))
                for key, name in self._domains.items()
            )

    def add_domain(self, name: str) -> None:
        """Take mail for a domain that the configuration does not name.

        Raises:
            AlreadyExists: it is ours already.
        """
        with self._change() as connection:
            key = domain_key(name)
            if key in self._domains:
                raise AlreadyExists(f"{name} is a domain of this server already")
            connection.execute(
                "INSERT INTO domain (domain_key, domain, added) VALUES (?, ?, 1)"
                " ON CONFLICT (domain_key) DO UPDATE SET added = 1, domain = excluded.domain",
                (key, name),
            )

    def remove_domain(self, name: str) -> None:
        """Take no more mail for a domain that was added by ``add_domain``.

        Raises:
            UnknownDomain: it is none of ours.
            DirectoryError: the configuration names it, or somebody still has an address there.
        """
        with self._change() as connection:
            key = self._domain_key(name)
            if key in self._configured:
                raise DirectoryError(
                    f"{name} stands in the configuration; take it out of domains = […] there"
                )
            for table in ("account", "alias", "list"):
                rows = self._rows(f"SELECT local FROM {table} WHERE domain_key = ? LIMIT 1", key)
                if rows:
                    raise DirectoryError(f"{rows[0][0]}@{name} still exists; remove it first")
            connection.execute("DELETE FROM domain WHERE domain_key = ?", (key,))

    def set_domain(self, name: str, catch_all: str | None = None, deliver: str | None = None) -> None:
        """Change who gets the mail of nobody (``""``: it is refused; ``*``: every name is a mailbox of the
        store behind ``deliver``), and where mail of accounts without a delivery of their own goes.

        Raises:
            UnknownDomain: it is none of ours.
            DirectoryError: it cannot be done; the text says why.
        """
        with self._change() as connection:
            key = self._domain_key(name)
            old_catch_all, old_deliver = self.domain(key)
            deliver = old_deliver if deliver is None else checked(deliver)
            if catch_all is None:
                catch_all = old_catch_all
            elif catch_all not in ("", EVERY_NAME):
                self._check_catch_all(name, catch_all)
            if catch_all == EVERY_NAME and not deliver:
                raise DirectoryError("a catch-all of * needs --deliver: a store that knows the names")
            connection.execute(
                "INSERT INTO domain (domain_key, domain, catch_all, deliver) VALUES (?, ?, ?, ?)"
                " ON CONFLICT (domain_key) DO UPDATE"
                " SET catch_all = excluded.catch_all, deliver = excluded.deliver",
                (key, name, catch_all, deliver),
            )

    def _check_catch_all(self, name: str, target: str) -> None:
        try:
            address = address_from(target)
        except ValueError as error:
            raise DirectoryError(str(error)) from None
        if domain_key(address.domain) == domain_key(name):
            # A name that only the catch-all itself answers to would lead back to it for ever.
            found, _ = self.exact(address, *self._key(address))
            if found is None:
                raise NotFound(f"{target} is neither a user nor an alias here; add it first")
        self._check_target(Address("", name), address)

    def _domain_key(self, name: str) -> str:
        key = domain_key(name)
        if key not in self._domains:
            raise UnknownDomain(f"{name} is not a domain of this server; `mailserver domain list` shows them")
        return key
