"""What every ``IDirectory`` owes, whatever its users are kept in.

A provider joins by adding to ``PROVIDERS`` a function that builds it, in a folder of its own, with
the users and aliases of ``USERS`` and ``ALIASES`` and the domains of ``DOMAINS``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from zope.interface.verify import verifyObject

from mailserver.accounts.directory import SqliteDirectory
from mailserver.accounts.files import FileDirectory
from mailserver.interfaces import IDirectory
from mailserver.values.account import Account, Alias, Elsewhere, LocalUser, NoSuchUser
from mailserver.values.address import Address, address_from

DOMAINS = ("example.test", "пошта.укр", "örnek.test", "b.test")
HASH = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaA"
USERS = (
    ("ada@example.test", ""),
    ("bob@example.test", "mbox"),
    ("олена@пошта.укр", ""),
    ("سارا@örnek.test", ""),
    ("ali@örnek.test", ""),
    ("alı@örnek.test", ""),
    ("ışık@örnek.test", ""),
    ("bob@b.test", ""),
)
ALIASES = (
    ("sales@example.test", ("ada@example.test", "carol@elsewhere.test")),
    ("postmaster@b.test", ("bob@b.test",)),
)


def sqlite(folder: Path) -> SqliteDirectory:
    directory = SqliteDirectory(folder / "accounts.sqlite", DOMAINS)
    directory.open()
    for user, format in USERS:
        directory.add_user(address_from(user), HASH, format)
    for alias, targets in ALIASES:
        directory.add_alias(address_from(alias), [address_from(t) for t in targets])
    return directory


def files(folder: Path) -> FileDirectory:
    (folder / "passwd").write_text(
        "".join(f"{user}:{HASH}::::::{'format=' + format if format else ''}\n" for user, format in USERS)
    )
    (folder / "aliases").write_text("".join(f"{alias}: {', '.join(targets)}\n" for alias, targets in ALIASES))
    directory = FileDirectory(folder / "passwd", folder / "aliases", DOMAINS)
    directory.open()
    return directory


def own(folder: Path) -> Any:
    """The one that docs/writing-a-directory.md builds."""
    page = (Path(__file__).parents[2] / "docs" / "writing-a-directory.md").read_text()
    names: dict[str, Any] = {}
    exec(
        compile(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0], "writing-a-directory.md", "exec"),
        names,
    )
    people = {user: (format, HASH) for user, format in USERS}
    return names["Ours"](DOMAINS, people, dict(ALIASES))


PROVIDERS: dict[str, Callable[[Path], Any]] = {"sqlite": sqlite, "files": files, "own": own}


@pytest.fixture(params=PROVIDERS)
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[IDirectory]:
    made = PROVIDERS[request.param](tmp_path)
    yield made
    if hasattr(made, "close"):
        made.close()


def user_of(directory: IDirectory, text: str) -> str | None:
    answer = directory.resolve(address_from(text))
    return str(answer.account.address) if isinstance(answer, LocalUser) else None


def test_provides_the_interface(directory: IDirectory) -> None:
    assert verifyObject(IDirectory, directory)


def test_a_user_with_its_format(directory: IDirectory) -> None:
    ada = address_from("ada@example.test")
    assert directory.resolve(ada) == LocalUser(Account(ada, ""))
    bob = address_from("bob@example.test")
    assert directory.resolve(bob) == LocalUser(Account(bob, "mbox"))


@pytest.mark.parametrize(
    ("written", "user"),
    [
        ("ADA@Example.TEST", "ada@example.test"),
        ("ada@example.test.", "ada@example.test"),
        ("Олена@ПОШТА.УКР", "олена@пошта.укр"),
        ("олена@xn--80a1acn3a.xn--j1amh", "олена@пошта.укр"),
        ("سارا@xn--rnek-4qa.test", "سارا@örnek.test"),
        ("سارا@o\u0308rnek.test", "سارا@örnek.test"),
        ("Ali@ÖRNEK.test", "ali@örnek.test"),
        ("ALI@örnek.test", "ali@örnek.test"),
        ("ALİ@örnek.test", "ali@örnek.test"),
        ("ali\u0307@örnek.test", None),
        ("alı@örnek.test", "alı@örnek.test"),
        ("AlI@örnek.test", "ali@örnek.test"),
        ("is\u0327ik@örnek.test", None),
        ("ıs\u0327ık@örnek.test", "ışık@örnek.test"),
        ("IŞIK@örnek.test", None),
    ],
)
def test_spellings_of_one_user(directory: IDirectory, written: str, user: str | None) -> None:
    assert user_of(directory, written) == user


@pytest.mark.parametrize("written", ["ada+lists@example.test", "ADA+@example.test", "ada+a+b@example.test"])
def test_a_detail_after_the_separator_is_the_users_own(directory: IDirectory, written: str) -> None:
    assert user_of(directory, written) == "ada@example.test"


def test_an_alias_names_its_targets_in_order(directory: IDirectory) -> None:
    asked = address_from("Sales@example.test")
    targets = (address_from("ada@example.test"), address_from("carol@elsewhere.test"))
    assert directory.resolve(asked) == Alias(asked, targets)
    detailed = address_from("sales+x@example.test")
    assert directory.resolve(detailed) == Alias(detailed, targets)


@pytest.mark.parametrize(
    "written",
    [
        "nobody@example.test",
        "+ada@example.test",
        "bob+x+ada@пошта.укр",
        "олена@example.test",
        "ada%b.test@b.test",
    ],
)
def test_nobody(directory: IDirectory, written: str) -> None:
    assert directory.resolve(address_from(written)) == NoSuchUser(address_from(written))


@pytest.mark.parametrize(
    "address",
    [
        Address("ada", "elsewhere.test"),
        Address("ada", "sub.example.test"),
        Address("ada", "[127.0.0.1]"),
        Address("postmaster", "elsewhere.test"),
        Address("ada", "example.test@elsewhere.test"),
    ],
)
def test_elsewhere(directory: IDirectory, address: Address) -> None:
    assert directory.resolve(address) == Elsewhere(address)


@pytest.mark.parametrize(
    "local", ["", "a" * 10_000, "\ud800", "\x00", "ada\x00", "'; DROP TABLE account; --", "+", "a\nb"]
)
def test_strange_local_parts_are_nobody(directory: IDirectory, local: str) -> None:
    address = Address(local, "example.test")
    assert directory.resolve(address) == NoSuchUser(address)
    assert directory.password_hash(f"{local}@example.test") is None


@pytest.mark.parametrize("local", ["postmaster", "Postmaster", "POSTMASTER"])
@pytest.mark.parametrize("domain", ["", *DOMAINS])
def test_postmaster_is_never_refused(directory: IDirectory, local: str, domain: str) -> None:
    answer = directory.resolve(Address(local, domain))
    assert isinstance(answer, LocalUser | Alias)
    if isinstance(answer, Alias):
        assert answer.targets
        assert all(isinstance(directory.resolve(t), LocalUser) for t in answer.targets)


def test_a_bare_local_part_other_than_postmaster_is_nobody(directory: IDirectory) -> None:
    assert directory.resolve(Address("ada", "")) == NoSuchUser(Address("ada", ""))


@pytest.mark.parametrize(
    ("login", "user"),
    [
        ("ada@example.test", "ada@example.test"),
        ("ADA@EXAMPLE.test", "ada@example.test"),
        ("ada", "ada@example.test"),
        ("Олена", "олена@пошта.укр"),
        ("олена@xn--80a1acn3a.xn--j1amh", "олена@пошта.укр"),
        ("bob@b.test", "bob@b.test"),
        ("bob", None),  # in two domains
        ("ada+x@example.test", None),
        ("sales@example.test", None),
        ("postmaster@example.test", None),
        ("ada@elsewhere.test", None),
        ("", None),
        ("@", None),
        ("@example.test", None),
    ],
)
def test_who_logs_in(directory: IDirectory, login: str, user: str | None) -> None:
    found = directory.password_hash(login)
    assert (found and (str(found[0].address), found[1])) == (user and (user, HASH))


@pytest.mark.parametrize("local", ["abuse", "Abuse"])
@pytest.mark.parametrize("domain", DOMAINS)
def test_abuse_is_never_refused(directory: IDirectory, local: str, domain: str) -> None:
    assert isinstance(directory.resolve(Address(local, domain)), LocalUser | Alias)


def test_no_command_or_file_answers_to_a_name(directory: IDirectory) -> None:
    for name in ("|/bin/sh", "/etc/passwd", ":discard:", ":request:news@example.test", "lmtp:unix:/x"):
        assert isinstance(directory.resolve(Address(name, "")), NoSuchUser), name
        assert isinstance(directory.resolve(Address(name, "example.test")), NoSuchUser), name


def test_secrets_are_those_of_the_password(directory: IDirectory) -> None:
    found = directory.secrets("ada@example.test")
    assert found is not None
    assert (str(found[0].address), found[1].password_hash) == ("ada@example.test", HASH)
    assert directory.secrets("nobody@example.test") is None
