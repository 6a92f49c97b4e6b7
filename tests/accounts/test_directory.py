"""The SQLite directory: changes, their refusal, and when a change is seen."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailserver.accounts import directory as module
from mailserver.accounts import tables
from mailserver.accounts.directory import (
    AliasLoop,
    AlreadyExists,
    DirectoryError,
    DirectoryUnavailable,
    NotFound,
    SqliteDirectory,
    UnknownDomain,
    UnusableAddress,
)
from mailserver.values.account import Account, Alias, Elsewhere, LocalUser, NoSuchUser, Secrets
from mailserver.values.address import Address, address_from

HASH = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaA"
DOMAINS = ("example.test", "b.test")
ADA = address_from("ada@example.test")
BOB = address_from("bob@b.test")


class Time:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
def directory(tmp_path: Path, clock: Time) -> Iterator[SqliteDirectory]:
    made = SqliteDirectory(tmp_path / "state" / "accounts.sqlite", DOMAINS, clock)
    made.open()
    yield made
    made.close()


def test_nothing_is_opened_before_open(tmp_path: Path) -> None:
    directory = SqliteDirectory(tmp_path / "state" / "accounts.sqlite", DOMAINS)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(DirectoryUnavailable, match="not open"):
        directory.resolve(ADA)


def test_the_files_are_for_their_owner_alone(directory: SqliteDirectory, tmp_path: Path) -> None:
    directory.add_user(ADA, HASH)
    folder = tmp_path / "state"
    assert folder.stat().st_mode & 0o777 == 0o700
    files = list(folder.iterdir())
    assert {f.name for f in files} == {"accounts.sqlite", "accounts.sqlite-wal", "accounts.sqlite-shm"}
    assert {f.stat().st_mode & 0o777 for f in files} == {0o600}


def test_users_survive_and_are_listed_in_order(directory: SqliteDirectory, tmp_path: Path) -> None:
    directory.add_user(ADA, HASH, "mbox")
    directory.add_user(BOB, HASH)
    directory.close()
    directory.open()
    assert directory.users() == (Account(BOB), Account(ADA, "mbox"))
    assert directory.password_hash("ada") == (Account(ADA, "mbox"), HASH)


def test_the_domain_is_kept_in_our_own_spelling(directory: SqliteDirectory) -> None:
    assert directory.add_user(Address("Ada", "EXAMPLE.test"), HASH).address == Address("Ada", "example.test")


def test_a_password_is_changed_and_a_user_removed(directory: SqliteDirectory) -> None:
    directory.add_user(ADA, HASH)
    directory.set_password(address_from("ADA@example.test"), HASH + "x")
    assert directory.password_hash("ada") == (Account(ADA), HASH + "x")
    directory.remove_user(ADA)
    assert directory.password_hash("ada") is None
    assert directory.resolve(ADA) == NoSuchUser(ADA)


def test_one_address_is_one_thing(directory: SqliteDirectory) -> None:
    directory.add_user(ADA, HASH)
    directory.add_alias(address_from("sales@example.test"), [ADA])
    for taken in ("ada@example.test", "ADA@example.test", "sales@example.test"):
        with pytest.raises(AlreadyExists, match="exists already"):
            directory.add_user(address_from(taken), HASH)
        with pytest.raises(AlreadyExists, match="exists already"):
            directory.add_alias(address_from(taken), [BOB])


def test_refusals(directory: SqliteDirectory) -> None:
    with pytest.raises(UnknownDomain, match=r"elsewhere\.test is not a domain of this server"):
        directory.add_user(address_from("ada@elsewhere.test"), HASH)
    with pytest.raises(UnknownDomain):
        directory.add_alias(address_from("ada@elsewhere.test"), [ADA])
    with pytest.raises(DirectoryError, match="maildir and mbox"):
        directory.add_user(ADA, HASH, "tar")
    with pytest.raises(ValueError, match="Argon2id"):
        directory.add_user(ADA, "secret")
    for change in (directory.remove_user, directory.remove_alias):
        with pytest.raises(NotFound, match=r"ada@example\.test is not"):
            change(ADA)
    with pytest.raises(NotFound):
        directory.set_password(ADA, HASH)
    with pytest.raises(DirectoryError, match="at least one target"):
        directory.add_alias(ADA, [])
    assert directory.users() == ()
    assert directory.aliases() == ()


@pytest.mark.parametrize(
    "local",
    ["../x", ".", "..", "a/b", ".ada", "ada.", "a..b", "a\x00b", "a\u2028b", "a b", '"a"', "я" * 33, ""],
)
def test_local_parts_that_no_mailbox_can_have(directory: SqliteDirectory, local: str) -> None:
    with pytest.raises(UnusableAddress):
        directory.add_user(Address(local, "example.test"), HASH)


def test_an_alias_needs_targets_that_exist_here(directory: SqliteDirectory) -> None:
    with pytest.raises(NotFound, match=r"bob@b\.test is neither"):
        directory.add_alias(address_from("sales@example.test"), [BOB])
    directory.add_user(BOB, HASH)
    directory.add_alias(address_from("sales@example.test"), [address_from("bob+sales@b.test"), BOB, BOB])
    assert directory.aliases() == (
        Alias(address_from("sales@example.test"), (address_from("bob+sales@b.test"), BOB)),
    )
    assert directory.aliases_to(address_from("BOB@b.test")) == (address_from("sales@example.test"),)


def test_loops_are_refused(directory: SqliteDirectory) -> None:
    one, two, three = (address_from(f"{name}@example.test") for name in ("one", "two", "three"))
    directory.add_user(ADA, HASH)
    for target in (one, address_from("ONE@example.test"), address_from("one+x@example.test")):
        with pytest.raises(AliasLoop, match="back to itself"):
            directory.add_alias(one, [target])
    directory.add_alias(three, [ADA])
    directory.add_alias(two, [three])
    directory.remove_alias(three)
    with pytest.raises(AliasLoop):
        directory.add_alias(three, [ADA, two])
    assert [a.address for a in directory.aliases()] == [two]


def test_a_user_whose_name_has_the_separator_is_no_loop(directory: SqliteDirectory) -> None:
    directory.add_user(address_from("sales+archive@example.test"), HASH)
    directory.add_alias(address_from("sales@example.test"), [address_from("sales+archive@example.test")])
    assert isinstance(directory.resolve(address_from("sales+archive@example.test")), LocalUser)


def test_postmaster_is_the_first_user_until_there_is_one_of_that_name(
    directory: SqliteDirectory,
) -> None:
    here, there, bare = (
        Address("postmaster", "example.test"),
        Address("postmaster", "b.test"),
        Address("Postmaster", ""),
    )
    assert directory.resolve(here) == LocalUser(Account(here))
    assert directory.resolve(bare) == LocalUser(Account(here))
    directory.add_user(BOB, HASH)
    assert directory.resolve(here) == Alias(here, (BOB,))
    directory.add_user(address_from("zoe@example.test"), HASH)
    directory.add_user(ADA, HASH)
    assert directory.resolve(here) == Alias(here, (address_from("zoe@example.test"),))
    assert directory.resolve(bare) == Alias(bare, (address_from("zoe@example.test"),))
    assert directory.resolve(there) == Alias(there, (BOB,))
    directory.add_alias(here, [ADA])
    assert directory.resolve(bare) == Alias(bare, (ADA,))


def test_another_connections_change_is_seen_within_half_a_second(
    directory: SqliteDirectory, clock: Time, tmp_path: Path
) -> None:
    other = SqliteDirectory(tmp_path / "state" / "accounts.sqlite", DOMAINS)
    other.open()
    other.add_user(ADA, HASH)
    assert directory.resolve(ADA) == LocalUser(Account(ADA))
    other.remove_user(ADA)
    clock.now += 0.49
    assert directory.resolve(ADA) == LocalUser(Account(ADA))  # from memory
    clock.now += 0.02
    assert directory.resolve(ADA) == NoSuchUser(ADA)
    other.close()


def test_another_processs_change_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "accounts.sqlite"
    directory = SqliteDirectory(path, DOMAINS)
    directory.open()
    directory.add_user(ADA, HASH)
    assert isinstance(directory.resolve(ADA), LocalUser)
    program = (
        "import sys; from pathlib import Path\n"
        "from mailserver.accounts.directory import SqliteDirectory\n"
        "from mailserver.values.address import address_from\n"
        "d = SqliteDirectory(Path(sys.argv[1]), ['example.test']); d.open()\n"
        "d.remove_user(address_from('ada@example.test')); d.close()\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True, timeout=60)
    time.sleep(module.FRESH_FOR)
    assert directory.resolve(ADA) == NoSuchUser(ADA)
    directory.close()


def test_a_resolution_is_remembered_and_the_memory_is_bounded(
    directory: SqliteDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 3)
    directory.add_user(ADA, HASH)
    assert directory.resolve(ADA) is directory.resolve(ADA)
    for n in range(10):
        directory.resolve(address_from(f"ada+{n}@example.test"))
        directory.resolve(address_from(f"nobody{n}@example.test"))
    assert len(directory._known) == 3


def test_addresses_of_other_domains_are_remembered_apart_until_something_changes(
    directory: SqliteDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REMEMBERED_ELSEWHERE", 3)
    directory.add_user(ADA, HASH)
    directory.resolve(ADA)
    for n in range(10):
        address = address_from(f"somebody{n}@other.test")
        assert directory.resolve(address) is directory.resolve(address)
    assert (len(directory._known), len(directory._elsewhere)) == (1, 3)
    directory.add_domain("other.test")
    assert not isinstance(directory.resolve(address), Elsewhere)


def test_a_broken_file_is_a_local_fault(tmp_path: Path) -> None:
    path = tmp_path / "accounts.sqlite"
    path.write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(DirectoryUnavailable, match=r"accounts\.sqlite: file is not a database"):
        SqliteDirectory(path, DOMAINS).open()


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "accounts.sqlite").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DirectoryUnavailable):
        SqliteDirectory(tmp_path / "accounts.sqlite", DOMAINS).open()
    assert not (tmp_path / "elsewhere").exists()


def test_a_later_schema_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "accounts.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(DirectoryUnavailable, match="schema 99"):
        SqliteDirectory(path, DOMAINS).open()


def test_a_long_writer_is_a_local_fault_and_reading_goes_on(tmp_path: Path, clock: Time) -> None:
    path = tmp_path / "accounts.sqlite"
    directory = SqliteDirectory(path, DOMAINS, clock, patience=0.01)
    directory.open()
    directory.add_user(ADA, HASH)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    with pytest.raises(DirectoryUnavailable, match="locked"):
        directory.add_user(BOB, HASH)
    clock.now += 10
    assert isinstance(directory.resolve(ADA), LocalUser)
    writer.execute("ROLLBACK")
    writer.close()
    directory.close()


def test_a_file_of_the_first_version_is_brought_up(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "accounts.sqlite", isolation_level=None)
    for statement in tables._SCHEMA:
        old.execute(statement)
    old.execute(
        "INSERT INTO account (domain_key, local_key, local, domain, password)"
        f" VALUES ('example.test', 'ada', 'ada', 'example.test', '{HASH}')"
    )
    old.close()
    for _ in range(2):
        directory = SqliteDirectory(tmp_path / "accounts.sqlite", ["example.test"])
        directory.open()
        assert directory.secrets("ada") == (Account(Address("ada", "example.test")), Secrets(HASH))
        directory.close()


def test_everything_that_is_kept_of_a_password(directory: SqliteDirectory) -> None:
    kept = Secrets(HASH, {"SCRAM-SHA-1": "SCRAM-SHA-1$…"}, "sealed")
    ada = directory.add_user(address_from("grace@example.test"), kept)
    assert directory.secrets("grace") == (ada, kept)
    directory.set_password(ada.address, HASH)
    assert directory.secrets("grace") == (ada, Secrets(HASH))


def test_senders_that_are_allowed(directory: SqliteDirectory) -> None:
    ada = directory.add_user(address_from("grace@example.test"), HASH)
    assert ada.may_send_as == ()
    directory.allow_senders(ada.address, ["*", "@list.test", "news@elsewhere.test", "*"])
    found = directory.secrets("grace")
    assert found is not None
    assert found[0].may_send_as == ("*", "@list.test", "news@elsewhere.test")
    for wrong in ("", "elsewhere.test", "a@b@c", "a b@c", "ada@"):
        with pytest.raises(UnusableAddress):
            directory.allow_senders(ada.address, [wrong])
    with pytest.raises(NotFound):
        directory.allow_senders(address_from("nobody@example.test"), ["*"])


def test_who_is_written_to_at_the_servers_own_name(tmp_path: Path) -> None:
    """Reports come from MAILER-DAEMON at the host's name, which may be no domain with users."""
    directory = SqliteDirectory(tmp_path / "accounts.sqlite", DOMAINS, hostname="mx.example.test")
    directory.open()
    directory.add_user(ADA, HASH)
    postmaster = address_from("postmaster@example.test")
    for name in ("MAILER-DAEMON", "postmaster", "abuse"):
        address = address_from(f"{name}@MX.example.test")
        assert directory.resolve(address) == Alias(address, (postmaster,))
    answer = directory.resolve(address_from("mailer-daemon@b.test"))
    assert isinstance(answer, Alias)
    assert isinstance(directory.resolve(address_from("ada@mx.example.test")), Elsewhere)
    directory.close()


def test_an_accounts_language(directory: SqliteDirectory) -> None:
    grace = directory.add_user(address_from("grace@example.test"), HASH)
    assert grace.language == ""
    directory.set_language(grace.address, "tr")
    answer = directory.resolve(grace.address)
    assert isinstance(answer, LocalUser)
    assert answer.account.language == "tr"
    with pytest.raises(DirectoryError, match="'xx' is not spoken here; there are en, tr, fa, uk"):
        directory.set_language(grace.address, "xx")


def test_a_directory_of_the_version_before_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "accounts.sqlite"
    connection = sqlite3.connect(path)
    for statement in (*tables._SCHEMA, *tables._STEPS[0]):
        connection.execute(statement)
    connection.execute(
        "INSERT INTO account (domain_key, local_key, local, domain, password, send_as)"
        " VALUES ('example.test', 'ada', 'ada', 'example.test', ?, '[\"*\"]')",
        (HASH,),
    )
    connection.commit()
    connection.close()
    directory = SqliteDirectory(path, ["example.test"])
    directory.open()
    try:
        (ada,) = directory.users()
        assert (ada.may_send_as, ada.language) == (("*",), "")
        directory.set_language(ada.address, "fa")
        assert directory.users()[0].language == "fa"
    finally:
        directory.close()


def test_an_alias_on_a_users_detail_cannot_close_a_loop(tmp_path: Path) -> None:
    directory = SqliteDirectory(tmp_path / "accounts.sqlite", ["example.test"])
    directory.open()
    try:
        directory.add_user(address_from("b@example.test"), HASH)
        directory.add_alias(address_from("a@example.test"), [address_from("b+1@example.test")])
        with pytest.raises(AliasLoop):
            directory.add_alias(address_from("b+1@example.test"), [address_from("a@example.test")])
    finally:
        directory.close()
