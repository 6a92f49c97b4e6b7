"""How an account's mailbox is kept and how much it may hold; files of the schema before."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from mailserver.accounts import tables
from mailserver.accounts.directory import SqliteDirectory
from mailserver.accounts.errors import DirectoryError, NotFound
from mailserver.values.account import LocalUser
from mailserver.values.address import Address

ADA = Address("ada", "example.test")
HASH = "$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$aGFzaA"


def opened(folder: Path) -> SqliteDirectory:
    directory = SqliteDirectory(folder / "accounts.sqlite", ["example.test"])
    directory.open()
    return directory


def test_both_are_kept_and_can_be_taken_back(tmp_path: Path) -> None:
    directory = opened(tmp_path)
    directory.add_user(ADA, HASH)
    for quota in (5_000_000_000_000, 0, None):
        directory.set_quota(ADA, quota)
        found = directory.resolve(ADA)
        assert isinstance(found, LocalUser)
        assert found.account.quota == quota
    directory.set_format(ADA, "mbox")
    assert [account.format for account in directory.users()] == ["mbox"]
    directory.close()


def test_nonsense_and_strangers_are_refused(tmp_path: Path) -> None:
    directory = opened(tmp_path)
    with pytest.raises(NotFound):
        directory.set_quota(ADA, 1)
    with pytest.raises(NotFound):
        directory.set_format(ADA, "mbox")
    directory.add_user(ADA, HASH)
    with pytest.raises(DirectoryError):
        directory.set_quota(ADA, -1)
    with pytest.raises(DirectoryError):
        directory.set_format(ADA, "dbox")
    directory.close()


def test_a_file_of_the_schema_before_is_taken_over(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "accounts.sqlite")
    for statements in (tables._SCHEMA, *tables._STEPS[:3]):
        for statement in statements:
            connection.execute(statement)
    connection.execute(
        "INSERT INTO account (local, domain, local_key, domain_key, password) VALUES (?, ?, ?, ?, ?)",
        ("ada", "example.test", "ada", "example.test", HASH),
    )
    connection.commit()
    connection.close()
    directory = opened(tmp_path)
    assert [(str(a.address), a.quota) for a in directory.users()] == [("ada@example.test", None)]
    directory.set_quota(ADA, 7)
    assert directory.users()[0].quota == 7
    directory.close()
