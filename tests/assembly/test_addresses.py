"""Which directory the configuration names, and what commands say to one that is not theirs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from mailserver.accounts.directory import SqliteDirectory
from mailserver.accounts.errors import DirectoryUnavailable
from mailserver.accounts.files import FileDirectory
from mailserver.admin.command import main
from mailserver.assembly.addresses import Addresses
from mailserver.assembly.own_objects import ObjectUnusable
from mailserver.config import Settings, load
from mailserver.values.account import Account, Alias, LocalUser
from mailserver.values.address import Address, address_from

OWN = """
from zope.interface import implementer
from mailserver.interfaces import IDirectory
from mailserver.values.account import Account, LocalUser

@implementer(IDirectory)
class Everybody:
    def resolve(self, address):
        return LocalUser(Account(address))
    def secrets(self, login):
        return None
    password_hash = secrets

class Broken(Everybody):
    def open(self):
        raise RuntimeError("the database is away")

class Neither:
    pass
"""


def settings(folder: Path, text: str) -> Settings:
    (folder / "mailserver.toml").write_text(f'hostname = "mx.a.test"\ndomains = ["a.test"]\n{text}')
    return load(folder / "mailserver.toml")


def test_sqlite_is_the_default_and_srs_leads_back(tmp_path: Path) -> None:
    addresses = Addresses(settings(tmp_path, ""))
    assert isinstance(addresses.directory, SqliteDirectory)
    assert list(tmp_path.iterdir()) == [tmp_path / "mailserver.toml"], "nothing is opened yet"
    addresses.open()
    sender = address_from("bob@out.test")
    path = addresses._rewritten(sender, "a.test")
    assert path is not None
    assert addresses.directory.resolve(path) == Alias(path, (sender,))
    assert addresses._rewritten(address_from("ada@a.test"), "a.test") is None
    addresses.close()
    off = Addresses(settings(tmp_path, "[addresses]\nsrs = false\n"))
    off.open()
    assert off._rewritten(sender, "a.test") is None
    off.close()


def test_files(tmp_path: Path) -> None:
    addresses = Addresses(settings(tmp_path, 'directory = "files"\n'))
    assert isinstance(addresses.directory, FileDirectory)
    with pytest.raises(DirectoryUnavailable, match="passwd"):
        addresses.open()
    (tmp_path / "passwd").write_text("ada:x\n")
    addresses.open()
    assert addresses.directory.resolve(address_from("ada@a.test")) == LocalUser(
        Account(Address("ada", "a.test"))
    )
    addresses.close()


def test_a_user_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "own_directory_of_a_test.py").write_text(OWN)
    more = '"\n[policy]\nrules_folder = "rules"\n'
    module = 'directory = "own_directory_of_a_test'
    addresses = Addresses(settings(tmp_path, f"{module}:Everybody{more}"))
    addresses.open()
    assert isinstance(addresses.directory.resolve(address_from("x@y.test")), LocalUser)
    assert addresses.directory.users() == ()
    addresses.close()
    with pytest.raises(DirectoryUnavailable, match="the database is away"):
        Addresses(settings(tmp_path, f"{module}:Broken{more}")).open()
    for name in ("Neither", "Nobody"):
        with pytest.raises(ObjectUnusable, match="directory"):
            Addresses(settings(tmp_path, f"{module}:{name}{more}"))
    sys.modules.pop("own_directory_of_a_test")


def test_commands_change_their_own_directory_alone(tmp_path: Path) -> None:
    settings(tmp_path, 'directory = "files"\n')
    arguments = ["--config", str(tmp_path / "mailserver.toml"), "alias", "add", "x@a.test", "y@b.test"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == os.EX_UNAVAILABLE
    assert "accounts are kept elsewhere" in done.stderr
