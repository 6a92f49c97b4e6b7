"""The ``mailserver`` command as a process of its own: exit codes, weight, owners, a server's view."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mailserver.accounts.directory import FRESH_FOR, SqliteDirectory
from mailserver.values.account import LocalUser, NoSuchUser
from mailserver.values.address import address_from

SOMEBODY = 65534


def let_everybody_reach(folder: Path) -> None:
    """pytest makes its folders for their owner alone; one more of them where tests run in parallel."""
    while folder.stat().st_mode & 0o777 == 0o700:
        folder.chmod(0o755)
        folder = folder.parent


def mailserver(
    folder: Path, *arguments: str, input: str = "", **options: object
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mailserver.admin.command", *arguments],
        cwd=folder,
        input=input,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_exit_codes_and_a_servers_view(tmp_path: Path) -> None:
    server = SqliteDirectory(tmp_path / "state" / "accounts.sqlite", ["localhost"])
    server.open()
    ada = address_from("ada@localhost")
    assert server.resolve(ada) == NoSuchUser(ada)
    added = mailserver(tmp_path, "user", "add", "ada@localhost", "--password-stdin", input="secret\n")
    assert (added.returncode, added.stdout, added.stderr) == (0, "ada@localhost added\n", "")
    assert isinstance(server.resolve(ada), LocalUser)
    removed = mailserver(tmp_path, "user", "remove", "ada@localhost", "--yes")
    assert removed.returncode == 0
    time.sleep(FRESH_FOR)
    assert server.resolve(ada) == NoSuchUser(ada)
    server.close()
    for code, *arguments in (
        (64,),
        (64, "usr"),
        (67, "user", "remove", "bob@localhost", "--yes"),
        (66, "-c", "x", "user", "list"),
    ):
        assert mailserver(tmp_path, *arguments).returncode == code  # type: ignore[arg-type]
    (tmp_path / "mailserver.toml").write_text("workers = -1")
    found = mailserver(tmp_path, "config", "check")  # found in the working folder, like the server's
    assert found.returncode == 78
    assert found.stderr.startswith("mailserver: mailserver.toml: workers: found -1; ")


def test_the_command_stays_light() -> None:
    program = (
        "import sys, mailserver.admin.command, mailserver.admin.user, mailserver.admin.alias\n"
        "heavy = ('twisted', 'rich', 'cattrs', 'argon2', 'cryptography')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout == "[]\n"


def test_a_reader_that_goes_away_is_no_drama(tmp_path: Path) -> None:
    command = f"{sys.executable} -m mailserver.admin.command config show | true; exit ${{PIPESTATUS[0]}}"
    for _ in range(3):
        result = subprocess.run(
            ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert (result.returncode, result.stderr) == (1, "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_root_leaves_files_of_the_state_folders_owner(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    let_everybody_reach(tmp_path)
    shutil.chown(state, SOMEBODY, SOMEBODY)
    added = mailserver(tmp_path, "user", "add", "ada@localhost", "--password-stdin", input="secret\n")
    assert added.returncode == 0, added.stderr
    assert {(f.stat().st_uid, f.stat().st_gid) for f in state.iterdir()} == {(SOMEBODY, SOMEBODY)}
    # What the owner planted is not followed with root's rights.
    secret = tmp_path / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)
    (state / "accounts.sqlite").unlink()
    (state / "accounts.sqlite").symlink_to(secret)
    planted = mailserver(tmp_path, "user", "list")
    assert planted.returncode in (os.EX_NOPERM, os.EX_UNAVAILABLE)
    assert secret.read_text() == "root's"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_others_are_told_who_may(tmp_path: Path) -> None:
    added = mailserver(tmp_path, "user", "add", "ada@localhost", "--password-stdin", input="x\n")
    assert added.returncode == 0
    assert added.stderr.startswith(f"mailserver: made {tmp_path / 'state'}, owned by root")
    let_everybody_reach(tmp_path)
    (tmp_path / "state").chmod(0o755)
    program = (
        "import os, mailserver.accounts.directory, mailserver.admin.user, mailserver.config\n"
        "from mailserver.admin.command import main\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "main(['user', 'list'])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 77
    assert result.stderr.rstrip().endswith("Permission denied; run it as root or as the mail server's user")
