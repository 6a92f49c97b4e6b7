"""Who an address belongs to: the answers that a directory gives."""

from __future__ import annotations

from dataclasses import dataclass

from mailserver.values.address import Address


@dataclass(frozen=True, slots=True)
class Account:
    """A user with a mailbox here. ``format`` is ``"maildir"``, ``"mbox"`` or ``""`` (the store's own)."""

    address: Address
    format: str = ""


@dataclass(frozen=True, slots=True)
class LocalUser:
    """The address is an account's own."""

    account: Account


@dataclass(frozen=True, slots=True)
class Alias:
    """The address stands for others, here or elsewhere."""

    address: Address
    targets: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class NoSuchUser:
    """The domain is ours and has nobody of that name."""

    address: Address


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The domain is not ours."""

    address: Address


Resolution = LocalUser | Alias | NoSuchUser | Elsewhere
