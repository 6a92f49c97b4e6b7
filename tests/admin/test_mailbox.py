"""``mailserver mailbox``: what its commands print, and how they end."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mailserver.admin.command import main
from mailserver.values.account import Account
from tests.store.deliveries import ADA, contents, deliver, delivery_of, opened, sent_form, store_at

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    (tmp_path / "mailserver.toml").write_text('hostname = "mx.example.test"\ndomains = ["example.test"]\n')
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str, input: str | None = None) -> Result:
        return CliRunner().invoke(
            main, ["--config", str(tmp_path / "mailserver.toml"), *arguments], input=input
        )

    assert invoke("user", "add", "ada@example.test", "--password-stdin", input="secret\n").exit_code == 0
    return invoke


def test_convert_changes_the_account_too(run: Run, tmp_path: Path) -> None:
    with store_at(tmp_path / "maildirs", "maildir") as store:
        deliver(store.mailbox(ADA), delivery_of(1), delivery_of(2))
        done = run("mailbox", "convert", "ada@example.test", "--to", "mbox")
        assert (done.exit_code, done.stdout) == (
            0,
            "ada@example.test is kept as mbox: 2 messages brought over\n",
        )
        assert run("user", "list").stdout.split()[-1] == "mbox"
        with opened(store.mailbox(Account(ADA.address, "mbox"))) as drop:
            assert contents(drop) == [sent_form(delivery_of(n)) for n in (1, 2)]
        again = json.loads(run("mailbox", "convert", "ada@example.test", "--to", "mbox", "--json").stdout)
        assert again == {
            "address": "ada@example.test",
            "format": "mbox",
            "messages": 0,
            "folders_left": [],
        }


def test_an_open_session_is_told_of(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailserver.admin.mailbox_move.PATIENCE", 0.1)
    with store_at(tmp_path / "maildirs", "maildir") as store:
        deliver(store.mailbox(ADA), delivery_of(1))
        with opened(store.mailbox(ADA)):
            refused = run("mailbox", "convert", "ada@example.test", "--to", "mbox")
    assert refused.exit_code == os.EX_TEMPFAIL
    assert "POP3 session" in refused.stderr
    assert run("user", "list").stdout.split()[-1] == "maildir"


def test_export_and_import(run: Run, tmp_path: Path) -> None:
    with store_at(tmp_path / "maildirs", "maildir") as store:
        deliver(store.mailbox(ADA), delivery_of(1))
        done = run("mailbox", "export", "ada@example.test", "--to", "ada.mbox")
        assert done.stdout == f"1 messages of ada@example.test are in {tmp_path}/ada.mbox\n"
        there = run("mailbox", "export", "ada@example.test", "--to", "ada.mbox")
        assert there.exit_code == os.EX_CANTCREAT
        run("user", "add", "bob@example.test", "--format", "mbox", "--password-stdin", input="secret\n")
        came = json.loads(run("mailbox", "import", "bob@example.test", "ada.mbox", "--json").stdout)
        assert came == {
            "address": "bob@example.test",
            "messages": 1,
            "present": 0,
            "ids_from": "X-UIDL",
            "folders": {},
            "folders_left": [],
            "renamed": 0,
        }
        again = run("mailbox", "import", "bob@example.test", "ada.mbox")
        assert again.stdout == "0 messages came to bob@example.test, 1 had come before; ids from X-UIDL\n"


def test_verify_and_repair(run: Run, tmp_path: Path) -> None:
    with store_at(tmp_path / "maildirs", "maildir") as store:
        deliver(store.mailbox(ADA), delivery_of(1))
    good = run("mailbox", "verify", "--all")
    assert (good.exit_code, good.stdout) == (0, "")
    assert good.stderr == "nothing is wrong with one mailbox\n"
    (tmp_path / "maildirs" / "example.test" / "ada" / "cur").chmod(0o755)
    bad = run("mailbox", "verify", "ada@example.test", "--json")
    assert bad.exit_code == os.EX_DATAERR
    expected = {
        "address": "ada@example.test",
        "kind": "permissions",
        "where": "ada/cur",
        "what": "its mode is 0755, expected 0700",
        "mendable": True,
    }
    assert json.loads(bad.stdout) == [expected]
    done = run("mailbox", "repair", "ada@example.test", "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (0, [{**expected, "mended": True, "why": ""}])
    assert run("mailbox", "verify", "ada@example.test").exit_code == 0
    (tmp_path / "maildirs" / "example.test" / "ada" / "new" / "link").symlink_to("/etc/passwd")
    assert run("mailbox", "repair", "--all").exit_code == os.EX_DATAERR
    assert run("mailbox", "verify").exit_code == os.EX_USAGE


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("convert", "nobody@example.test", "--to", "mbox"), os.EX_NOUSER),
        (("convert", "ada@example.test", "--to", "dbox"), os.EX_USAGE),
        (("convert", "ada@example.test"), os.EX_USAGE),
        (("import", "ada@example.test", "/nowhere/mail"), os.EX_NOINPUT),
        (("import", "ada@example.test", "mailserver.toml"), os.EX_DATAERR),
        (("import", "ada@example.test", "."), os.EX_DATAERR),
        (("export", "ada@example.test", "--to", "/nowhere/ada.mbox"), os.EX_NOINPUT),
        (("export", "ada@example.test"), os.EX_USAGE),
    ],
)
def test_what_is_wrong_is_said_in_one_line(run: Run, arguments: tuple[str, ...], code: int) -> None:
    refused = run("mailbox", *arguments)
    assert refused.exit_code == code
    assert refused.stdout == ""
    assert "Traceback" not in refused.stderr
    assert len(refused.stderr.splitlines()) == 1 or code == os.EX_USAGE


@pytest.mark.parametrize("command", ["convert", "export", "import", "verify", "repair"])
def test_help_has_an_example(run: Run, command: str) -> None:
    assert f"Example: mailserver mailbox {command} " in run("mailbox", command, "--help").stdout


def test_a_quota_of_its_own(run: Run) -> None:
    assert (
        run("user", "set", "ada@example.test", "--quota", "5 GiB").stdout
        == "ada@example.test may keep 5 GiB\n"
    )
    assert run("user", "list").stdout.splitlines()[1].split() == ["ada@example.test", "maildir", "5", "GiB"]
    done = run("user", "set", "ada@example.test", "--quota", "0", "--json")
    assert json.loads(done.stdout) == {"address": "ada@example.test", "quota": 0}
    run("user", "set", "ada@example.test", "--quota", "server")
    assert run("user", "list").stdout.splitlines()[0].split() == ["address", "format"]
    added = run("user", "add", "bob@example.test", "--quota", "1MiB", "--password-stdin", input="secret\n")
    assert added.exit_code == 0
    assert "1 MiB" in run("user", "list").stdout
    for wrong in ("much", "-1", "5 GB/s"):
        assert run("user", "set", "ada@example.test", "--quota", wrong).exit_code == os.EX_USAGE
