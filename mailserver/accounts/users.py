"""Accounts: made, changed and removed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from mailserver.accounts.base import DirectoryFile, Row
from mailserver.accounts.errors import AlreadyExists, DirectoryError, NotFound, UnusableAddress
from mailserver.accounts.names import local_key
from mailserver.values.account import Account, Away, LocalUser, Resolution, Secrets
from mailserver.values.address import Address, domain_key
from mailserver.values.deliveries import checked_delivery
from mailserver.words import LANGUAGES

ACCOUNTS = (
    "SELECT local, domain, format, send_as, language, deliver, away, quota, password, scram, sealed"
    " FROM account"
)
_FORMATS = ("", "maildir", "mbox")


class Users(DirectoryFile):
    """The accounts of a directory file."""

    exact: Callable[[Address, str, str], tuple[Resolution | None, bool]]

    def users(self) -> tuple[Account, ...]:
        """Every account, by domain and name."""
        return tuple(account_from(row) for row in self._rows(f"{ACCOUNTS} ORDER BY domain_key, local_key"))

    def secrets(self, login: str) -> tuple[Account, Secrets] | None:
        """As ``password_hash``, with everything that is kept of the password."""
        local, at, domain = login.strip().rpartition("@")
        wanted = [(local, domain_key(domain))] if at else [(domain, ours) for ours in self._domains]
        rows = [self._account_row(local_key(name), key) for name, key in wanted if key in self._domains]
        found = [row for row in rows if row is not None]
        if len(found) != 1:
            return None
        *_, password, scram, sealed = found[0]
        return account_from(found[0]), Secrets(password, json.loads(scram), sealed)

    def password_hash(self, login: str) -> tuple[Account, str] | None:
        """The account behind a full address, or behind a local part that only one of our domains has.

        Raises:
            DirectoryUnavailable: the file cannot be read.
        """
        found = self.secrets(login)
        return None if found is None else (found[0], found[1].password_hash)

    def add_user(
        self, address: Address, secrets: Secrets | str, format: str = "", deliver: str = ""
    ) -> Account:
        """Make an account; ``format`` is ``"maildir"``, ``"mbox"``, or ``""`` for the store's own;
        ``deliver`` as in ``Account``.

        ``secrets`` are ``accounts.secrets.secrets_of`` a password.  An Argon2id hash alone, from
        elsewhere for example, is enough for PLAIN, LOGIN and USER, and for nothing else.

        Raises:
            UnknownDomain, UnusableAddress, AlreadyExists: as they say; nothing was made.
        """
        kept = _checked(secrets)
        if format not in _FORMATS:
            raise DirectoryError(f"{format!r} is not a format of mailboxes; there are maildir and mbox")
        deliver = checked(deliver)
        with self._change() as connection:
            local, domain = self._ours(address)
            self._check_free(Address(local, domain))
            connection.execute(
                "INSERT INTO account (local, domain, local_key, domain_key, format, deliver, password, scram,"
                " sealed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (local, domain, local_key(local), domain_key(domain), format, deliver, *kept),
            )
        return Account(Address(local, domain), format, deliver=deliver)

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

    def set_format(self, address: Address, format: str) -> None:
        """How an account's mailbox is kept from now on, as in ``add_user``; its mail does not move.

        Raises:
            NotFound: there is no such account.
        """
        if format not in _FORMATS:
            raise DirectoryError(f"{format!r} is not a format of mailboxes; there are maildir and mbox")
        self._update(address, "format = ?", (format,))

    def set_quota(self, address: Address, quota: int | None) -> None:
        """Octets that an account's mailbox may hold: 0 for no limit, ``None`` for what the
        configuration says.

        Raises:
            NotFound: there is no such account.
        """
        if quota is not None and not 0 <= quota < 2**63:
            raise DirectoryError(f"{quota} is no amount of octets")
        self._update(address, "quota = ?", (quota,))

    def set_delivery(self, address: Address, deliver: str) -> None:
        """Where an account's mail goes instead of its mailbox; ``""`` for the mailbox.

        Raises:
            NotFound: there is no such account.
            DirectoryError: it is no way to deliver.
        """
        self._update(address, "deliver = ?", (checked(deliver),))

    def set_away(self, address: Address, away: Away | None) -> None:
        """The out-of-office answer of an account; ``None`` ends it.

        Raises:
            NotFound: there is no such account.
            DirectoryError: it would end before it begins.
        """
        if away is not None and away.ends and away.ends <= max(away.begins, 0.0):
            raise DirectoryError("the answer would end before it begins")
        text = json.dumps([away.text, away.begins, away.ends], ensure_ascii=False) if away else ""
        self._update(address, "away = ?", (text,))

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
                raise _no_user(address)

    def first_user(self, domain: str) -> Account | None:
        """See ``resolver.Names``."""
        rows = self._rows(f"{ACCOUNTS} WHERE domain_key = ? ORDER BY id LIMIT 1", domain)
        return account_from(rows[0]) if rows else None

    def _update(self, address: Address, columns: str, values: Sequence[object]) -> None:
        with self._change() as connection:
            changed = connection.execute(
                f"UPDATE account SET {columns} WHERE local_key = ? AND domain_key = ?",
                (*values, *self._key(address)),
            )
            if changed.rowcount == 0:
                raise _no_user(address)

    def _account_row(self, key: str, domain: str) -> Row | None:
        rows = self._rows(f"{ACCOUNTS} WHERE local_key = ? AND domain_key = ?", key, domain)
        return rows[0] if rows else None

    def _check_free(self, address: Address) -> None:
        found, _ = self.exact(address, *self._key(address))
        if isinstance(found, LocalUser):
            raise AlreadyExists(f"{found.account.address} exists already, as a user")
        if found is not None:
            kind = "an alias" if type(found).__name__ == "Alias" else "a list"
            raise AlreadyExists(f"{address} exists already, as {kind}; remove it first to change it")


def account_from(row: Row) -> Account:
    """The account in a row of ``ACCOUNTS``."""
    local, domain, format, send_as, language, deliver, away, quota, *_ = row
    return Account(
        Address(local, domain),
        format,
        tuple(json.loads(send_as)) if send_as != "[]" else (),
        language,
        deliver,
        Away(*json.loads(away)) if away else None,
        quota,
    )


def checked(deliver: str) -> str:
    """``deliver``, which may be empty. Raises ``DirectoryError``."""
    try:
        return checked_delivery(deliver) if deliver else ""
    except ValueError as error:
        raise DirectoryError(str(error)) from None


def _no_user(address: Address) -> NotFound:
    return NotFound(f"{address} is not a user; `mailserver user list` shows them")


def _checked(secrets: Secrets | str) -> tuple[Any, ...]:
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
