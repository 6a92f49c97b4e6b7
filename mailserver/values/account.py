"""Who an address belongs to: the answers that a directory gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from mailserver.values.address import Address
from mailserver.values.value import value


@value(frozen=True, slots=True)
class Away:
    """An out-of-office answer, sent between two moments (seconds since the epoch; 0: no end); an empty
    ``text`` stands for the server's own words in the account's language."""

    text: str = ""
    begins: float = 0.0
    ends: float = 0.0


@value(frozen=True, slots=True)
class Account:
    """A user with a mailbox here. ``format`` is ``"maildir"``, ``"mbox"`` or ``""`` (the store's own).

    ``may_send_as`` are senders beside the user's own addresses and aliases: whole addresses, domains
    as ``@example.test``, or ``*`` for everybody's.  ``language`` is what the user reads, a tag of
    ``words.LANGUAGES``, or ``""`` for the server's own.

    ``deliver`` is where mail goes instead of a mailbox (``values.deliveries``), ``""`` for the mailbox;
    ``away`` the out-of-office answer, if there is one.  ``quota``: octets that the mailbox may hold, 0 for
    no limit, ``None`` for what the configuration says.
    """

    address: Address
    format: str = ""
    may_send_as: tuple[str, ...] = ()
    language: str = ""
    deliver: str = ""
    away: Away | None = None
    quota: int | None = None


@value(frozen=True, slots=True)
class Secrets:
    """What is kept of a password, none of which logs in by itself.

    ``password_hash`` is an Argon2id hash; ``scram`` holds verifiers by mechanism, as RFC 5803
    writes them; ``cram_md5`` is the password, sealed by a key that is kept elsewhere, and ``""``
    unless an administrator has turned CRAM-MD5 on.
    """

    password_hash: str = field(repr=False)
    scram: Mapping[str, str] = field(default_factory=dict, repr=False)
    cram_md5: str = field(default="", repr=False)


@value(frozen=True, slots=True)
class LocalUser:
    """The address is an account's own."""

    account: Account


@value(frozen=True, slots=True)
class Alias:
    """The address stands for others, here or elsewhere."""

    address: Address
    targets: tuple[Address, ...]


@value(frozen=True, slots=True)
class MailingList:
    """The address is a mailing list's own: each member gets a copy from the list.

    ``posters`` may write to it: ``members`` (and owners), ``owners`` or ``anybody``; ``title`` is what
    people call it; ``open`` tells that anybody may subscribe by mail.
    """

    address: Address
    members: tuple[Address, ...]
    owners: tuple[Address, ...] = ()
    posters: str = "members"
    title: str = ""
    open: bool = False
    member_keys: frozenset[tuple[str, str]] = field(default=frozenset(), repr=False, compare=False)

    def has_member(self, address: Address) -> bool:
        """Whether the address is a member's, in any case of its letters."""
        return _folded(address) in (self.member_keys or frozenset(map(_folded, self.members)))

    def has_owner(self, address: Address) -> bool:
        return _folded(address) in map(_folded, self.owners)


@value(frozen=True, slots=True)
class NoSuchUser:
    """The domain is ours and has nobody of that name."""

    address: Address


@value(frozen=True, slots=True)
class Elsewhere:
    """The domain is not ours."""

    address: Address


def _folded(address: Address) -> tuple[str, str]:
    local, domain = address.key
    return local.casefold(), domain


def list_of(address: Address, members: tuple[Address, ...], **others: Any) -> MailingList:
    """A list, with its members ready to be asked about."""
    return MailingList(address, members, member_keys=frozenset(map(_folded, members)), **others)


Resolution = LocalUser | Alias | MailingList | NoSuchUser | Elsewhere
