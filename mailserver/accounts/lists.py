"""Mailing lists: their members, who may post, and whose mail comes back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from mailserver.accounts.aliases import Aliases
from mailserver.accounts.errors import AlreadyExists, DirectoryError, NotFound
from mailserver.accounts.names import local_key
from mailserver.values.account import LocalUser, MailingList, NoSuchUser, list_of
from mailserver.values.address import Address, address_from, domain_key

POSTERS = ("members", "owners", "anybody")

_LISTS = "SELECT id, local, domain, owners, posters, title, open FROM list"
_DAY = 86400


@dataclass(frozen=True, slots=True)
class Member:
    """``bounces``: on how many days in a row mail to the member came back."""

    address: Address
    bounces: int = 0


class Lists(Aliases):
    """The mailing lists of a directory file."""

    def lists(self) -> tuple[MailingList, ...]:
        """Every list, by domain and name."""
        rows = self._rows(f"{_LISTS} ORDER BY domain_key, local_key")
        return tuple(self._list(row) for row in rows)

    def mailing_list(self, address: Address) -> MailingList:
        """The list of that address.

        Raises:
            NotFound: there is none.
        """
        found = self.list_of(*self._key(address))
        if found is None:
            raise _no_list(address)
        return found

    def list_of(self, key: str, domain: str) -> MailingList | None:
        """See ``resolver.Names``."""
        rows = self._rows(f"{_LISTS} WHERE local_key = ? AND domain_key = ?", key, domain)
        return self._list(rows[0]) if rows else None

    def members(self, address: Address) -> tuple[Member, ...]:
        """The members, and how often mail to them came back.

        Raises:
            NotFound: there is no such list.
        """
        sql = "SELECT local, domain, bounces FROM member WHERE list = ? ORDER BY domain_key, local_key"
        return tuple(
            Member(Address(local, domain), bounces)
            for local, domain, bounces in self._rows(sql, self._list_id(address))
        )

    def add_list(
        self,
        address: Address,
        owners: Sequence[Address],
        posters: str = "members",
        title: str = "",
        open: bool = False,
    ) -> MailingList:
        """Make a list; see ``MailingList``. An owner here must exist.

        Raises:
            UnknownDomain, UnusableAddress, AlreadyExists, NotFound, DirectoryError: as they say.
        """
        if posters not in POSTERS:
            raise DirectoryError(f"{posters!r} may not post; there are {', '.join(POSTERS)}")
        if not owners:
            raise DirectoryError(f"list {address} needs an owner, who gets what goes wrong")
        if not title.isprintable():
            raise DirectoryError("the title holds characters that cannot be printed")
        with self._change() as connection:
            local, domain = self._ours(address)
            own = Address(local, domain)
            self._remove_ended(self._key(own))
            self._check_free(own)
            for owner in owners:
                self._check_exists(owner)
            names = json.dumps([f"{one.local}@{one.domain}" for one in owners], ensure_ascii=False)
            connection.execute(
                "INSERT INTO list (local, domain, local_key, domain_key, owners, posters, title, open)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (local, domain, local_key(local), domain_key(domain), names, posters, title, int(open)),
            )
        return MailingList(own, (), tuple(owners), posters, title, open)

    def remove_list(self, address: Address) -> None:
        """Remove a list and its members.

        Raises:
            NotFound: there is no such list.
        """
        with self._change() as connection:
            connection.execute("DELETE FROM list WHERE id = ?", (self._list_id(address),))

    def add_members(self, address: Address, members: Sequence[Address]) -> int:
        """Add members; how many were none before. A member here must exist, and must not be the list.

        Raises:
            NotFound: there is no such list, or no such user.
            AlreadyExists: nobody would become a member who is none.
        """
        with self._change() as connection:
            number = self._list_id(address)
            for member in members:
                self._check_target(address, member)
            rows = [(number, *self._key(one), one.local, one.domain) for one in members]
            before = connection.total_changes
            connection.executemany(
                "INSERT OR IGNORE INTO member (list, local_key, domain_key, local, domain)"
                " VALUES (?, ?, ?, ?, ?)",
                rows,
            )
            added = connection.total_changes - before
            if not added:
                raise AlreadyExists(f"all of them are members of {address} already")
        return added

    def remove_members(self, address: Address, members: Sequence[Address]) -> None:
        """Remove members.

        Raises:
            NotFound: there is no such list, or one of them is no member; then all stay.
        """
        with self._change() as connection:
            number = self._list_id(address)
            for member in members:
                gone = connection.execute(
                    "DELETE FROM member WHERE list = ? AND local_key = ? AND domain_key = ?",
                    (number, *self._key(member)),
                )
                if gone.rowcount == 0:
                    raise NotFound(f"{member} is not a member of {address}")

    def bounced(self, address: Address, member: Address, limit: int) -> bool:
        """Mail to a member came back for good. After ``limit`` days in a row on which that happened
        (a quiet week ends the row) the member goes; whether this was the last time."""
        today = int(self._now() // _DAY)
        with self._change() as connection:
            key = (self._list_id(address), *self._key(member))
            where = "WHERE list = ? AND local_key = ? AND domain_key = ?"
            connection.execute(
                "UPDATE member SET bounces = CASE WHEN bounced = ? THEN bounces"
                f" WHEN bounced < ? THEN 1 ELSE bounces + 1 END, bounced = ? {where}",
                (today, today - 7, today, *key),
            )
            gone = connection.execute(f"DELETE FROM member {where} AND bounces >= ?", (*key, limit))
            return gone.rowcount > 0

    def _list_id(self, address: Address) -> int:
        rows = self._rows("SELECT id FROM list WHERE local_key = ? AND domain_key = ?", *self._key(address))
        if not rows:
            raise _no_list(address)
        return int(rows[0][0])

    def _list(self, row: tuple[object, ...]) -> MailingList:
        number, local, domain, owners, posters, title, is_open = row
        members = self._rows(
            "SELECT local, domain FROM member WHERE list = ? ORDER BY domain_key, local_key", number
        )
        return list_of(
            Address(str(local), str(domain)),
            tuple(Address(*member) for member in members),
            owners=tuple(address_from(owner) for owner in json.loads(str(owners))),
            posters=str(posters),
            title=str(title),
            open=bool(is_open),
        )

    def _check_exists(self, address: Address) -> None:
        answer, _ = self._resolver.resolve(address)
        if isinstance(answer, NoSuchUser):
            raise NotFound(f"{address} is neither a user nor an alias here; add it first")

    def account_at(self, address: Address) -> LocalUser | None:
        """The user of exactly that address."""
        found, _ = self.exact(address, *self._key(address))
        return found if isinstance(found, LocalUser) else None


def _no_list(address: Address) -> NotFound:
    return NotFound(f"{address} is not a mailing list; `mailserver lists list` shows them")
