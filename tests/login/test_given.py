"""`--auth`: checkers of twisted.cred, by their command-line descriptions."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from mailserver.accounts.directory import SqliteDirectory
from mailserver.interfaces import LoginUnavailable
from mailserver.login.given import GivenChecker, checkers_from
from mailserver.login.tokens import CheckerUnusable
from mailserver.tap import Options
from mailserver.values.address import address_from
from tests.scratch import scratch_path

HASH = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$aGFzaA"


class GivenCase(SynchronousTestCase):
    def setUp(self) -> None:
        folder = scratch_path(self)
        folder.mkdir()
        self.directory = SqliteDirectory(folder / "accounts.sqlite", ["a.test", "b.test"])
        self.directory.open()
        self.addCleanup(self.directory.close)
        for name in ("ada@a.test", "bob@a.test", "bob@b.test"):
            self.directory.add_user(address_from(name), HASH)
        self.file = folder / "passwd"
        self.file.write_text("ada@a.test:from the file\n")
        descriptions = ["memory:ada:secret:bob:secret:nobody:secret", f"file:{self.file}"]
        self.checker = GivenChecker(checkers_from(descriptions), self.directory, ["a.test", "b.test"])

    def log_in(self, name: str, password: str, checker: Any = None) -> Any:
        credentials = UsernamePassword(name.encode(), password.encode())
        return (checker or self.checker).requestAvatarId(credentials)

    def test_each_is_asked_in_turn(self) -> None:
        for name, password in (("ada", "secret"), ("ada@a.test", "from the file")):
            account = self.successResultOf(self.log_in(name, password))
            assert str(account.address) == "ada@a.test"

    def test_wrong_passwords_and_names_without_one_account(self) -> None:
        for name, password in (("ada", "wrong"), ("eve", "x"), ("bob", "secret"), ("nobody", "secret")):
            self.failureResultOf(self.log_in(name, password), UnauthorizedLogin)

    def test_a_checker_that_breaks_is_unavailable_unless_another_knows(self) -> None:
        self.file.unlink()
        assert self.successResultOf(self.log_in("ada", "secret"))
        self.failureResultOf(self.log_in("ada", "wrong"), LoginUnavailable, UnauthorizedLogin)
        self.flushLoggedErrors()


def test_descriptions_that_name_nothing() -> None:
    for wrong in ("nosuchtype:x", "memory:odd"):
        with pytest.raises(CheckerUnusable) as raised:
            checkers_from([wrong])
        assert wrong.partition(":")[2] not in str(raised.value), "it may be a password"


def test_the_command_line() -> None:
    options = Options()
    options.parseOptions(["--auth", "memory:ada:secret", "--auth", "memory:bob:x"])
    assert options["auth"] == ("memory:ada:secret", "memory:bob:x")
    with pytest.raises(UsageError):
        Options().parseOptions(["--auth", "nosuchtype"])
    assert "--auth" in str(Options())
