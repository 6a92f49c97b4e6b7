"""Who an address belongs to: the order in which names are looked for, whatever they are kept in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from mailserver.accounts.names import SEPARATOR, local_key, without_detail
from mailserver.accounts.srs import Srs
from mailserver.values.account import (
    Account,
    Alias,
    Elsewhere,
    LocalUser,
    MailingList,
    NoSuchUser,
    Resolution,
)
from mailserver.values.address import Address, address_from, domain_key
from mailserver.values.deliveries import delivery_in

POSTMASTER = "postmaster"
ROLES = (POSTMASTER, "abuse")
"""Names that every domain has (RFC 5321 §4.5.1, RFC 2142 §4)."""

MAILER_DAEMON = "mailer-daemon"
OF_THE_HOST = (*ROLES, MAILER_DAEMON)
"""Who writes and is written to at the server's own name, also where that is no domain with users."""

EVERY_NAME = "*"
"""A catch-all for which every name is a mailbox of the store that the domain is delivered to."""


class Names(Protocol):
    """What a directory keeps, by local key and domain key."""

    def exact(self, address: Address, key: str, domain: str) -> tuple[Resolution | None, bool]:
        """The user, alias or list of exactly that name; and whether the answer may be remembered."""
        ...

    def list_of(self, key: str, domain: str) -> MailingList | None: ...

    def owner_of(self, key: str, domain: str) -> str:
        """The owner of an alias, ``""`` where nobody is named."""
        ...

    def first_user(self, domain: str) -> Account | None: ...

    def domain(self, domain: str) -> tuple[str, str]:
        """The domain's catch-all and its delivery, each ``""`` for none."""
        ...

    def names_delivery(self, text: str) -> bool:
        """Whether an alias has this delivery among its targets."""
        ...


class Resolver:
    """Answers for one set of names. ``domains``: our domains, key to spelling, the first one first."""

    def __init__(
        self,
        names: Names,
        domains: Callable[[], Mapping[str, str]],
        separators: str = SEPARATOR,
        srs: Srs | None = None,
        hostname: str = "",
    ) -> None:
        """``hostname`` is the server's own name, from whose postmaster and MAILER-DAEMON mail comes."""
        self._names = names
        self._hostname = domain_key(hostname)
        self._domains = domains
        self._separators = separators
        self._srs = srs

    def resolve(self, address: Address) -> tuple[Resolution, bool]:
        """Who an address belongs to; and whether the answer may be remembered until a change.

        The local part as it is comes first, then without its detail, then what the server itself
        answers for, then the domain's catch-all.  Postmaster and abuse are never refused: where a
        domain has neither user nor alias of that name, its first user stands in, then the first user of
        all; with no user at all a mailbox ``postmaster`` is kept for whoever comes.
        """
        key = local_key(address.local)
        domain = domain_key(address.domain)
        domains = self._domains()
        if not address.domain:
            if delivery := delivery_in(address):
                return self._delivery(address, delivery), False
            if key != POSTMASTER or not domains:
                return NoSuchUser(address), False
            domain = next(iter(domains))
        elif domain not in domains:
            if domains and domain == self._hostname and key in OF_THE_HOST:
                first = next(iter(domains.values()))
                return Alias(address, (Address(POSTMASTER, first),)), False
            return Elsewhere(address), False
        found, lasts = self._names.exact(address, key, domain)
        if found is None and (name := without_detail(key, self._separators)) is not None:
            found, lasts = self._names.exact(address, name, domain)
        if found is not None:
            return found, lasts
        return self._other(address, key, domain) or NoSuchUser(address), False

    def _delivery(self, address: Address, delivery: str) -> Resolution:
        """Only what the administrator has named is ever run or written to."""
        if not self._names.names_delivery(delivery):
            return NoSuchUser(address)
        return LocalUser(Account(address, deliver=delivery))

    def _other(self, address: Address, key: str, domain: str) -> Resolution | None:
        found = self._of_a_list(address, key, domain)
        if found is None and self._srs is not None and (sender := self._srs.sender_behind(address)):
            found = Alias(address, (sender,))
        if found is None and (without_detail(key, self._separators) or key) in OF_THE_HOST:
            found = self._role(address, domain)
        return found or self._catch_all(address, domain)

    def _of_a_list(self, address: Address, key: str, domain: str) -> Resolution | None:
        """``NAME-owner``, ``owner-NAME``, ``NAME-request`` and ``NAME-bounces`` of lists; the first three
        of aliases that have an owner (RFC 2142 §6)."""
        for name, role in _roles(key):
            mailing_list = self._names.list_of(name, domain)
            if mailing_list is None:
                owner = "" if role == "bounces" else self._names.owner_of(name, domain)
                if owner:
                    return Alias(address, (address_from(owner),))
            elif role == "owner" or (role == "bounces" and "+" not in key):
                return Alias(address, mailing_list.owners)
            else:
                return LocalUser(Account(address, deliver=f":{role}:{mailing_list.address}"))
        return None

    def _role(self, address: Address, domain: str) -> Resolution:
        domains = self._domains()
        if local_key(address.local) != POSTMASTER:
            own = Address(POSTMASTER, domains[domain])
            if self._names.exact(own, POSTMASTER, domain)[0] is not None:
                return Alias(address, (own,))
        for candidate in (domain, *domains):
            if account := self._names.first_user(candidate):
                return Alias(address, (account.address,))
        return LocalUser(Account(Address(POSTMASTER, domains[domain])))

    def _catch_all(self, address: Address, domain: str) -> Resolution | None:
        target, delivery = self._names.domain(domain)
        if not target or not address.local or not address.local.isprintable():
            return None
        if target == EVERY_NAME:
            return LocalUser(Account(address, deliver=delivery)) if delivery else None
        return Alias(address, (address_from(target),))


def _roles(key: str) -> Iterable[tuple[str, str]]:
    name = key.partition("+")[0]
    for role in ("bounces", "request", "owner"):
        if name.endswith(f"-{role}"):
            yield name.removesuffix(f"-{role}"), role
    if key.startswith("owner-"):
        yield key.removeprefix("owner-"), "owner"
