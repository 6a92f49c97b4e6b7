"""Why a directory refuses a change, or cannot be asked."""

from __future__ import annotations


class DirectoryError(Exception):
    """A change was refused and nothing was changed; the text says why and what to do."""


class AlreadyExists(DirectoryError):
    """The address is a user, an alias or a list already."""


class UnknownDomain(DirectoryError):
    """The domain is not one of ours."""


class NotFound(DirectoryError):
    """There is no such user, alias, list or domain."""


class AliasLoop(DirectoryError):
    """The alias would lead back to itself."""


class UnusableAddress(DirectoryError):
    """The local part cannot be an account's or alias's."""


class DirectoryUnavailable(Exception):
    """The file cannot be read or written now: a local fault, to be answered with 4xx."""
