"""Mailing lists, domains, ends and owners in the SQLite directory."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailserver.accounts.directory import SqliteDirectory
from mailserver.accounts.errors import (
    AliasLoop,
    AlreadyExists,
    DirectoryError,
    NotFound,
    UnknownDomain,
)
from mailserver.accounts.list_tokens import ListTokens
from mailserver.values.account import Alias, Away, Elsewhere, LocalUser, MailingList, NoSuchUser
from mailserver.values.address import Address, address_from
from mailserver.values.deliveries import as_target

HASH = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaA"
DAY = 86400.0
ADA, NEWS = address_from("ada@a.test"), address_from("news@a.test")
BOB = address_from("Bob@out.test")


class World:
    now = 1_700_000_000.0


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[SqliteDirectory]:
    World.now = 1_700_000_000.0
    made = SqliteDirectory(tmp_path / "accounts.sqlite", ["a.test", "b.test"], now=lambda: World.now)
    made.open()
    made.add_user(ADA, HASH)
    yield made
    made.close()


def resolve(directory: SqliteDirectory, text: str) -> object:
    return directory.resolve(address_from(text))


def test_a_list_and_its_own_addresses(directory: SqliteDirectory) -> None:
    directory.add_list(NEWS, [ADA], title="The news", open=True)
    assert directory.add_members(NEWS, [BOB, ADA]) == 2
    answer = resolve(directory, "NEWS@a.test")
    assert isinstance(answer, MailingList)
    assert set(answer.members) == {ADA, BOB}
    assert answer.has_member(address_from("bob@OUT.test"))
    for name in ("news-owner", "owner-news", "news-bounces"):
        assert resolve(directory, f"{name}@a.test") == Alias(address_from(f"{name}@a.test"), (ADA,))
    for name, kind in (("news-request", "request"), ("news-bounces+abc", "bounces")):
        robot = resolve(directory, f"{name}@a.test")
        assert isinstance(robot, LocalUser)
        assert robot.account.deliver == f":{kind}:news@a.test"
    assert isinstance(resolve(directory, "news-owner@b.test"), NoSuchUser)
    assert isinstance(resolve(directory, "old-request@a.test"), NoSuchUser)


def test_refusals(directory: SqliteDirectory) -> None:
    directory.add_list(NEWS, [ADA])
    with pytest.raises(AlreadyExists, match="a list"):
        directory.add_user(NEWS, HASH)
    with pytest.raises(AlreadyExists):
        directory.add_list(ADA, [ADA])
    with pytest.raises(NotFound, match=r"nobody@a\.test"):
        directory.add_members(NEWS, [BOB, address_from("nobody@a.test")])
    assert directory.members(NEWS) == (), "nothing was added"
    with pytest.raises(AliasLoop):
        directory.add_members(NEWS, [NEWS])
    directory.add_alias(address_from("all@a.test"), [NEWS])
    with pytest.raises(AliasLoop):
        directory.add_members(NEWS, [address_from("all@a.test")])
    with pytest.raises(NotFound):
        directory.remove_members(NEWS, [ADA])
    with pytest.raises(NotFound):
        directory.add_members(address_from("none@a.test"), [ADA])
    with pytest.raises(DirectoryError, match="may not post"):
        directory.add_list(address_from("x@a.test"), [ADA], posters="all")


def test_bounces_on_five_days_in_a_row_remove_a_member(directory: SqliteDirectory) -> None:
    directory.add_list(NEWS, [ADA])
    directory.add_members(NEWS, [ADA, BOB])
    for day in range(5):
        gone = [directory.bounced(NEWS, BOB, 5) for _ in range(3)]  # many on one day are one
        assert any(gone) is (day == 4)
        World.now += DAY
    assert [one.address for one in directory.members(NEWS)] == [ADA]
    for _ in range(9):  # a quiet week ends the row
        assert not directory.bounced(NEWS, ADA, 3)
        World.now += 9 * DAY
    assert not directory.bounced(NEWS, BOB, 1), "who is no member"


def test_temporary_aliases_end_by_themselves(directory: SqliteDirectory) -> None:
    shop = address_from("shop@a.test")
    directory.add_alias(shop, [ADA], until=World.now + DAY, owner=ADA)
    assert isinstance(directory.resolve(shop), Alias)
    assert resolve(directory, "owner-shop@a.test") == Alias(address_from("owner-shop@a.test"), (ADA,))
    assert directory.sweep() == ()
    World.now += DAY
    assert isinstance(directory.resolve(shop), NoSuchUser), "before anybody sweeps"
    assert isinstance(resolve(directory, "owner-shop@a.test"), NoSuchUser)
    directory.add_alias(shop, [ADA], until=World.now + 1)
    World.now += 2
    assert directory.sweep() == (shop,)
    assert directory.aliases() == ()
    with pytest.raises(DirectoryError, match="ended already"):
        directory.add_alias(shop, [ADA], until=World.now)


def test_domains_by_command(directory: SqliteDirectory, tmp_path: Path) -> None:
    late = address_from("ada@late.test")
    with pytest.raises(UnknownDomain, match="mailserver domain add"):
        directory.add_user(late, HASH)
    assert isinstance(directory.resolve(late), Elsewhere)
    other = SqliteDirectory(tmp_path / "accounts.sqlite", ["a.test", "b.test"])
    other.open()
    other.add_domain("Late.test")
    other.add_user(late, HASH)
    other.close()
    directory._fresh_until = 0.0
    assert isinstance(directory.resolve(late), LocalUser)
    assert [one.name for one in directory.domain_facts()] == ["a.test", "b.test", "Late.test"]
    with pytest.raises(AlreadyExists):
        directory.add_domain("late.test")
    with pytest.raises(DirectoryError, match="still exists"):
        directory.remove_domain("late.test")
    directory.remove_user(late)
    directory.remove_domain("late.test")
    assert isinstance(directory.resolve(late), Elsewhere)
    with pytest.raises(DirectoryError, match="configuration"):
        directory.remove_domain("a.test")


def test_catch_all(directory: SqliteDirectory) -> None:
    directory.set_domain("a.test", catch_all="ada@a.test")
    assert resolve(directory, "nobody@a.test") == Alias(address_from("nobody@a.test"), (ADA,))
    assert isinstance(resolve(directory, "ada@a.test"), LocalUser)
    assert isinstance(resolve(directory, "nobody@b.test"), NoSuchUser)
    for _ in range(3):
        resolve(directory, "somebody@a.test")
    assert ("somebody", "a.test") not in directory._known, "strangers' names push nobody out"
    with pytest.raises(NotFound):
        directory.set_domain("a.test", catch_all="other@a.test")
    with pytest.raises(DirectoryError, match="needs --deliver"):
        directory.set_domain("b.test", catch_all="*")
    directory.set_domain("b.test", catch_all="*", deliver="lmtp:unix:/run/x")
    anybody = resolve(directory, "anybody@b.test")
    assert isinstance(anybody, LocalUser)
    assert anybody.account.deliver == "lmtp:unix:/run/x"
    directory.set_domain("a.test", catch_all="")
    assert isinstance(resolve(directory, "nobody@a.test"), NoSuchUser)


def test_a_domain_s_delivery_is_that_of_accounts_without_their_own(directory: SqliteDirectory) -> None:
    directory.set_domain("a.test", deliver=":discard:")
    directory.add_user(address_from("bot@a.test"), HASH, deliver="|/bin/cat")
    for name, deliver in (("ada", ":discard:"), ("bot", "|/bin/cat")):
        answer = resolve(directory, f"{name}@a.test")
        assert isinstance(answer, LocalUser)
        assert answer.account.deliver == deliver


def test_only_what_an_administrator_has_named_is_ever_run(directory: SqliteDirectory) -> None:
    directory.add_alias(address_from("bot@a.test"), [as_target("|/bin/cat -u")])
    answer = directory.resolve(Address("|/bin/cat -u", ""))
    assert isinstance(answer, LocalUser)
    for other in ("|/bin/cat", "|/bin/sh", "/etc/passwd", ":discard:", "agent:x:y", ":request:news@a.test"):
        assert isinstance(directory.resolve(Address(other, "")), NoSuchUser), other
        assert isinstance(directory.resolve(Address(other, "a.test")), NoSuchUser), other
    directory.remove_alias(address_from("bot@a.test"))
    assert isinstance(directory.resolve(Address("|/bin/cat -u", "")), NoSuchUser)


def test_abuse_goes_where_postmaster_goes(directory: SqliteDirectory) -> None:
    assert resolve(directory, "abuse@b.test") == Alias(address_from("abuse@b.test"), (ADA,))
    directory.add_user(address_from("postmaster@b.test"), HASH)
    answer = resolve(directory, "Abuse@b.test")
    assert isinstance(answer, Alias)
    assert answer.targets == (address_from("postmaster@b.test"),)


def test_separators_of_choice(tmp_path: Path) -> None:
    directory = SqliteDirectory(tmp_path / "accounts.sqlite", ["a.test"], separators="-=")
    directory.open()
    directory.add_user(ADA, HASH)
    for name in ("ada-x", "ada=x-y", "ADA-"):
        assert isinstance(resolve(directory, f"{name}@a.test"), LocalUser), name
    for name in ("ada+x", "-ada", "adax"):
        assert isinstance(resolve(directory, f"{name}@a.test"), NoSuchUser), name
    directory.close()


def test_away_is_kept(directory: SqliteDirectory) -> None:
    directory.set_away(ADA, Away("Gone fishing — до понеділка", 1.0, 2.0))
    answer = directory.resolve(ADA)
    assert isinstance(answer, LocalUser)
    assert answer.account.away == Away("Gone fishing — до понеділка", 1.0, 2.0)
    directory.set_away(ADA, None)
    answer = directory.resolve(ADA)
    assert isinstance(answer, LocalUser)
    assert answer.account.away is None
    with pytest.raises(DirectoryError, match="before it begins"):
        directory.set_away(ADA, Away("", 5.0, 4.0))


def test_a_file_of_version_three_is_brought_up(tmp_path: Path) -> None:
    from mailserver.accounts import tables

    path = tmp_path / "accounts.sqlite"
    db = sqlite3.connect(path)
    for statements in (tables._SCHEMA, *tables._STEPS[:2]):
        for statement in statements:
            db.execute(statement)
    db.execute(
        "INSERT INTO account (domain_key, local_key, local, domain, password) VALUES (?, ?, ?, ?, ?)",
        ("a.test", "ada", "ada", "a.test", HASH),
    )
    db.commit()
    assert db.execute("PRAGMA user_version").fetchone() == (3,)
    db.close()
    directory = SqliteDirectory(path, ["a.test"])
    directory.open()
    assert isinstance(directory.resolve(ADA), LocalUser)
    directory.add_list(NEWS, [ADA])
    assert isinstance(directory.resolve(NEWS), MailingList)
    directory.close()


def test_tokens() -> None:
    tokens = ListTokens(lambda: b"k" * 32, lambda: World.now, "https://lists.a.test/leave")
    news = MailingList(NEWS, (ADA, BOB))
    path = tokens.bounces(NEWS, BOB)
    assert path.local.startswith("news-bounces+")
    assert tokens.member_behind(news, Address(path.local.upper(), "a.test")) == BOB
    assert tokens.member_behind(news, Address("news-bounces+abcdefabcdef", "a.test")) is None
    assert tokens.member_behind(news, Address("news-bounces", "a.test")) is None
    assert tokens.bounces(NEWS, None) == address_from("news-bounces@a.test")
    link = tokens.link(NEWS, BOB)
    token = link.rpartition("token=")[2]
    assert link.startswith("https://lists.a.test/leave?list=news%40a.test&member=Bob%40out.test&token=")
    assert tokens.may_leave(NEWS, BOB, token)
    assert not tokens.may_leave(NEWS, ADA, token)
    given = tokens.confirmation(NEWS, BOB, "subscribe")
    assert tokens.is_confirmed(NEWS, BOB, "subscribe", given)
    assert not tokens.is_confirmed(NEWS, BOB, "unsubscribe", given)
    World.now += 8 * DAY
    assert not tokens.is_confirmed(NEWS, BOB, "subscribe", given)
