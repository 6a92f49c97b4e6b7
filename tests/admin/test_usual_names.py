"""``send``, and the names that everybody types: mailq, newaliases, sendmail."""

from __future__ import annotations

import email
import json
import subprocess
from email.policy import default
from pathlib import Path

import pytest
from click.testing import CliRunner

from mailserver.admin.command import main
from mailserver.deliver import drop
from tests.journeys.tools import ours

TOML = 'hostname = "mx.example.test"\ndomains = ["example.test"]\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mailserver.toml").write_text(TOML)
    (tmp_path / "state" / drop.FOLDER).mkdir(parents=True)
    return tmp_path


def dropped(folder: Path) -> list[drop.Dropped]:
    return [drop.read(path, 10**6) for path in (folder / "state" / drop.FOLDER).iterdir()]


def test_a_message_is_written_and_can_be_traced(folder: Path) -> None:
    (folder / "notes.txt").write_text("attached")
    arguments = ["send", "ada@example.test", "олена@example.test", "--subject", "Привіт", "--json"]
    files = ["--attach", str(folder / "notes.txt"), "--from", "bob@example.test"]
    done = CliRunner().invoke(
        main, ["-c", str(folder / "mailserver.toml"), *arguments, *files], input="It works.\n"
    )
    assert done.exit_code == 0, done.stderr
    (taken,) = dropped(folder)
    assert [str(one) for one in taken.recipients] == ["ada@example.test", "олена@example.test"]
    assert str(taken.sender) == "bob@example.test"
    message = email.message_from_bytes(taken.content, policy=default)
    assert message["Message-ID"] == json.loads(done.stdout)["message_id"]
    assert (message["Subject"], message["From"]) == ("Привіт", "bob@example.test")
    body = message.get_body()
    assert body is not None
    assert body.get_content().split() == ["It", "works."]
    assert [one.get_content() for one in message.iter_attachments()] == ["attached"]


@pytest.mark.parametrize("arguments", [["send"], ["send", "ada"], ["send", "ada@example.test", "--txt", "x"]])
def test_a_wrong_command_sends_nothing(folder: Path, arguments: list[str]) -> None:
    done = CliRunner().invoke(main, ["-c", str(folder / "mailserver.toml"), *arguments])
    assert done.exit_code == 64
    assert "Example: mailserver send" in done.stderr
    assert not dropped(folder)


def test_nothing_is_not_sent(folder: Path) -> None:
    done = CliRunner().invoke(main, ["-c", str(folder / "mailserver.toml"), "send", "a@b.test"], input=" \n")
    assert done.exit_code == 65
    assert not dropped(folder)


def test_links_of_the_usual_names_are_those_commands(folder: Path) -> None:
    for name in ("mailq", "newaliases", "sendmail"):
        (folder / name).symlink_to(ours("mailserver"))
    queue = subprocess.run([folder / "mailq"], cwd=folder, capture_output=True, text=True, check=True)
    assert queue.stderr == "The queue is empty.\n"
    rebuilt = subprocess.run([folder / "newaliases"], cwd=folder, capture_output=True, text=True, check=True)
    assert "nothing to rebuild" in rebuilt.stdout
    text = "Subject: x\n\ny\n"
    subprocess.run([folder / "sendmail", "ada@example.test"], cwd=folder, input=text, text=True, check=True)
    assert [str(one) for one in dropped(folder)[0].recipients] == ["ada@example.test"]
