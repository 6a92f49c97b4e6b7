"""The directory in files: what their lines mean, and that a change is seen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mailserver.accounts.errors import DirectoryUnavailable
from mailserver.accounts.files import FileDirectory
from mailserver.values.account import Alias, LocalUser, NoSuchUser
from mailserver.values.address import Address, address_from
from tests.accounts.test_schemes import ARGON


class Setup:
    def __init__(self, folder: Path) -> None:
        self.passwd, self.aliases = folder / "passwd", folder / "aliases"
        self.warnings: list[str] = []
        self.now = 0.0
        self.directory = FileDirectory(
            self.passwd,
            self.aliases,
            ["a.test", "b.test"],
            warn=self.warnings.append,
            clock=lambda: self.now,
        )

    def resolve(self, text: str) -> object:
        self.now += 1
        return self.directory.resolve(address_from(text))


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    made = Setup(tmp_path)
    made.passwd.write_text(
        f"# people\nada@a.test:{ARGON}:1000:1000::/home/ada::format=mbox quota=1G\n\nbob::::::\n"
        "eve@b.test:{PLAIN}secret\nwho@elsewhere.test:x\n"
    )
    made.aliases.write_text(
        'sales: ada@a.test,\n  bob, carol@out.test\n# comment\nbot@b.test: "|/bin/cat -u, x"\n'
        "null: /dev/null\n@b.test: ada@a.test\nbroken\nloop: |cat\n"
    )
    made.directory.open()
    return made


def test_accounts(setup: Setup) -> None:
    found = setup.directory.secrets("ada@a.test")
    assert found is not None
    assert (found[0].format, found[1].password_hash) == ("mbox", ARGON)
    assert setup.directory.secrets("bob@a.test") is None, "without a password"
    assert setup.directory.secrets("eve@b.test") is None, "a scheme that is not taken"
    assert isinstance(setup.resolve("eve@b.test"), LocalUser), "who gets mail all the same"
    assert any("passwd:5" in text and "scheme" in text for text in setup.warnings)
    assert any("passwd:6" in text for text in setup.warnings)


def test_aliases_of_postfix(setup: Setup) -> None:
    sales = setup.resolve("sales@a.test")
    assert isinstance(sales, Alias)
    assert [str(t) for t in sales.targets] == ["ada@a.test", "bob@a.test", "carol@out.test"]
    bot = setup.resolve("bot@b.test")
    assert isinstance(bot, Alias)
    (command,) = bot.targets
    answer = setup.directory.resolve(command)
    assert isinstance(answer, LocalUser)
    assert answer.account.deliver == "|/bin/cat -u, x"
    assert isinstance(setup.directory.resolve(Address("|/bin/sh", "")), NoSuchUser)
    assert isinstance(setup.resolve("anybody@b.test"), Alias), "the catch-all"
    assert isinstance(setup.resolve("anybody@a.test"), NoSuchUser)
    assert sum("aliases:" in text for text in setup.warnings) == 3  # broken, |cat, and so loop itself


def test_a_change_is_seen_and_half_a_file_forgets_nobody(setup: Setup) -> None:
    setup.passwd.write_text("new@a.test:x\n")
    assert isinstance(setup.directory.resolve(address_from("new@a.test")), LocalUser)  # the first look
    setup.aliases.unlink()
    setup.passwd.unlink()
    assert isinstance(setup.resolve("new@a.test"), LocalUser)
    setup.passwd.write_bytes(b"\xff\xfe")
    assert isinstance(setup.resolve("new@a.test"), LocalUser)
    assert setup.warnings
    fresh = setup.passwd.with_name("fresh")
    fresh.write_text("other@a.test:x\n")
    os.rename(fresh, setup.passwd)
    assert isinstance(setup.resolve("new@a.test"), NoSuchUser)
    assert isinstance(setup.resolve("other@a.test"), LocalUser)


def test_nobody_starts_without_accounts(tmp_path: Path) -> None:
    with pytest.raises(DirectoryUnavailable, match="passwd"):
        Setup(tmp_path).directory.open()
