"""``mailserver explain``: the whole policy is played, and nothing is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mailserver.accounts.directory import SqliteDirectory
from mailserver.accounts.secrets import secrets_of
from mailserver.values.address import address_from
from tests.journeys.tools import ours, run

TOML = """
hostname = "mx.example.test"
domains = ["example.test"]
[policy]
reverse_dns = false
"""
LOOP = "Delivered-To: ada@example.test\r\nSubject: x\r\n\r\n.x\r\n"


def explain(folder: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = run([ours("mailserver"), "-c", str(folder / "mailserver.toml"), "explain", "--json", *arguments])
    assert done.stdout, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, told


def test_it_says_which_rule_decides_and_whom_it_goes_to(tmp_path: Path) -> None:
    (tmp_path / "mailserver.toml").write_text(TOML)
    (tmp_path / "state").mkdir()
    directory = SqliteDirectory(tmp_path / "state" / "accounts.sqlite", ["example.test"])
    directory.open()
    directory.add_user(address_from("ada@example.test"), secrets_of("x"))
    directory.add_alias(address_from("all@example.test"), [address_from("ada@example.test")])
    directory.close()
    code, told = explain(tmp_path, "--from", "b@p.test", "--to", "x@elsewhere.test")
    assert code == 1
    assert told["decided_by"] == "the rule relay_only_for_our_own"
    assert told["said"][-1]["verdicts"][-1][1].startswith("550 5.7.1")
    (tmp_path / "loop.eml").write_text(LOOP)
    everyone = ("--from", "ada@example.test", "--to", "all@example.test", "--to", "x@elsewhere.test")
    code, told = explain(tmp_path, *everyone, "--user", "ada@example.test")
    assert (code, told["refused"]) == (0, "")
    assert [one["to"] for one in told["recipients"]] == ["ada@example.test", "x@elsewhere.test"]
    assert told["recipients"][0]["where"].endswith("maildirs/example.test/ada")
    code, told = explain(tmp_path, "--from", "", "--to", "all@example.test", str(tmp_path / "loop.eml"))
    assert (code, told["decided_by"]) == (1, "the answer to content")
    assert "loop" in told["refused"]
    assert not (tmp_path / "state" / "spool").exists()
