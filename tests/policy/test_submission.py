"""Whom an account may write as."""

from pathlib import Path

import pytest

from mailserver.accounts.directory import SqliteDirectory
from mailserver.policy.submission import SenderRights
from mailserver.policy.submission_notice import hold_notice
from mailserver.values.account import Account
from mailserver.values.address import NULL_SENDER, Address, address_from

HASH = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaA"


@pytest.fixture
def directory(tmp_path: Path) -> SqliteDirectory:
    made = SqliteDirectory(tmp_path / "accounts.sqlite", ["a.test"])
    made.open()
    for user in ("ada@a.test", "bob@a.test"):
        made.add_user(address_from(user), HASH)
    made.add_alias(address_from("sales@a.test"), [address_from("ada@a.test"), address_from("x@b.test")])
    made.add_alias(address_from("all@a.test"), [address_from("sales@a.test"), address_from("bob@a.test")])
    return made


def may(directory: SqliteDirectory, sender: str, *allowed: str) -> bool:
    ada = Account(Address("ada", "a.test"), may_send_as=allowed)
    return SenderRights(directory.resolve).may_use(ada, address_from(sender))


@pytest.mark.parametrize(
    "own", ["ada@a.test", "ADA@A.TEST", "ada+shop@a.test", "sales@a.test", "all@a.test", "postmaster@a.test"]
)
def test_own_addresses_and_aliases(directory: SqliteDirectory, own: str) -> None:
    assert may(directory, own)


@pytest.mark.parametrize("other", ["bob@a.test", "nobody@a.test", "ada@b.test", "x@b.test", "bob+ada@a.test"])
def test_others(directory: SqliteDirectory, other: str) -> None:
    assert not may(directory, other)
    assert may(directory, other, "*")


def test_exceptions(directory: SqliteDirectory) -> None:
    assert may(directory, "x@b.test", "x@b.test")
    assert may(directory, "y@b.test", "@B.test")
    assert not may(directory, "y@b.test", "x@b.test")
    assert not may(directory, "y@c.b.test", "@b.test")


def test_the_answer_to_mail(directory: SqliteDirectory) -> None:
    rights, ada = SenderRights(directory.resolve), Account(Address("ada", "a.test"))
    assert rights.objection(ada, NULL_SENDER) is None
    assert rights.objection(ada, ada.address) is None
    refusal = rights.objection(ada, address_from("bob@a.test"))
    assert refusal is not None
    assert refusal.text == "550 5.7.1 <bob@a.test> is not an address of <ada@a.test>, who is logged in"


def test_the_notice_goes_to_owner_and_postmaster_once(directory: SqliteDirectory) -> None:
    bob = Account(Address("bob", "a.test"))
    notice = hold_notice(bob, Address("postmaster", "a.test"), "bob sends", "mx", directory.resolve, 0.0)
    assert notice.envelope.reverse_path == NULL_SENDER
    assert [str(r.address) for r in notice.envelope.recipients] == ["bob@a.test", "ada@a.test"]
    assert b"mailserver queue release --sender bob@a.test\r\n" in notice.content
    assert b"Subject: Your mail is held" in notice.content
    for language in ("tr", "fa", "uk"):
        spoken = hold_notice(bob, bob.address, "bob sends", "mx", directory.resolve, 0.0, language).content
        assert f"Content-Language: {language}\r\n".encode() in spoken
        assert b"mailserver queue release --sender bob@a.test\r\n" in spoken
        assert spoken.partition(b"\r\n\r\n")[0].isascii()
        assert not spoken.isascii()
    ada = Account(Address("ada", "a.test"))
    notice = hold_notice(ada, Address("postmaster", "a.test"), "ada sends", "mx", directory.resolve, 0.0)
    assert [str(r.address) for r in notice.envelope.recipients] == ["ada@a.test"]
