"""Each command's help has an example, and each example runs in a prepared folder."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from mailserver.admin.command import main
from mailserver.deliver import drop
from mailserver.durable import Disk
from mailserver.spool.sqlite import SqliteSpool
from mailserver.trace.recorder import Recorder
from mailserver.trace.segments import FOLDER as TRACE
from mailserver.values.address import address_from
from mailserver.values.envelope import Envelope, Recipient
from tests.journeys.tools import ours, run
from tests.spool.letters import delayed, spooled

TOML = 'hostname = "mx.example.test"\ndomains = ["example.test"]\n'
USER = "user add ada@example.test --password-stdin"
LIST = "lists add news@example.test --owner ada@example.test --open"

BEFORE = {
    "alias remove": ["alias add sales@example.test ada@example.test"],
    "domain remove": ["domain add example.org"],
    "lists join": [LIST],
    "lists leave": [LIST, "lists join news@example.test bob@elsewhere.test"],
    "lists members": [LIST],
    "lists remove": [LIST],
    "queue release": ["queue hold --sender ada@example.test --reason x"],
}
"""What has to be there first."""

NEEDS_SERVER = 69
CODES = {
    "check": 1,  # nobody listens here, and the certificate is not bought
    "config apply": NEEDS_SERVER,
    "config confirm": NEEDS_SERVER,
    "config diff": NEEDS_SERVER,
    "route": NEEDS_SERVER,
    "suppression clear": 67,  # nobody is suppressed
    "terminal": NEEDS_SERVER,
    "user add": 73,  # ada is there already
}
"""Exit codes that are not 0, and why."""

INPUT = {"sendmail": "To: ada@example.test\n\nx\n"}
"""What comes on standard input, where it is not a password."""

OWN_PROCESS = {"explain"}
"""They run a reactor."""


def commands() -> Iterator[tuple[str, click.Command]]:
    context = click.Context(main)

    def walk(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
        if isinstance(command, click.Group):
            for inner in command.list_commands(context):
                found = command.get_command(context, inner)
                assert found is not None
                yield from walk(found, f"{name} {inner}".strip())
        else:
            yield name, command

    return walk(main, "")


EXAMPLES = {name: command.epilog or "" for name, command in commands()}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a user, a waiting message, a trace and files to name; and the id of the message."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "mailserver.toml").write_text(TOML)
    (folder / "answer.txt").write_text("Back soon.\n")
    (folder / "backup").mkdir()
    for name in ("new", "cur", "tmp"):
        (folder / "ada" / "Maildir" / name).mkdir(parents=True)
    assert invoke(folder, shlex.split(USER)).exit_code == 0
    (folder / "state" / drop.FOLDER).mkdir()
    spool = SqliteSpool(folder / "state" / "spool", Disk(), 0)
    spool.start()
    partner = address_from("bob@partner.test")
    envelope = Envelope(address_from("ada@example.test"), (Recipient(0, partner, partner),))
    entry = spooled(spool, what=envelope)
    spool.record(entry, [delayed(entry.waiting[0], 4_000_000_000.0)]).result(10)
    spooled(spool, what=replace(envelope, release_at=4_000_000_000.0))  # `recall` takes it back
    spool.stop()
    recorder = Recorder(folder / "state" / TRACE, 0, 86400.0, 0, pytest.fail)
    recorder.start()
    recorder.accepted(entry, None)
    recorder.stop()
    return folder, entry.queue_id


def invoke(folder: Path, words: list[str]) -> Result:
    configured = ["-c", str(folder / "mailserver.toml"), *words]
    return CliRunner().invoke(main, configured, input=INPUT.get(words[0], "secret\n"))


def words_of(name: str, example: str, folder: Path, id_: str) -> list[str]:
    """The example's words, with a message, files and a password that are there."""
    text = example.removeprefix("Example: ").replace("2kq8f3vbx1c", id_)
    text = text.replace("/backup/", f"{folder}/backup/").replace("/var/vmail/", f"{folder}/")
    text = text.replace("answer.txt", f"{folder}/answer.txt")
    words = shlex.split(text)
    assert words.pop(0) == "mailserver", example
    if words[0] == "--config":
        assert words[1] == "mailserver.toml"
        del words[:2]
    assert " ".join(words).startswith(name), example
    return [*words, "--password-stdin"] if name in ("user add", "user password") else words


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs(
    name: str, template: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, id_ = template
    folder = tmp_path / "here"
    shutil.copytree(prepared, folder)
    monkeypatch.chdir(folder)
    for line in BEFORE.get(name, ()):
        assert invoke(folder, shlex.split(line)).exit_code == 0, line
    words = words_of(name, EXAMPLES[name], folder, id_)
    if name in OWN_PROCESS:
        done = run([ours("mailserver"), *words], cwd=folder)
        code, said = done.returncode, done.stderr
    else:
        result = invoke(folder, words)
        code, said = result.exit_code, result.stderr
    assert code == CODES.get(name, 0), said


def test_every_page_of_help_has_its_example() -> None:
    for name, example in EXAMPLES.items():
        assert example.startswith("Example: "), name
        result = CliRunner().invoke(main, [*name.split(), "--help"])
        assert result.exit_code == 0
        assert "Example: " in result.stdout


@pytest.mark.parametrize("name", sorted({name.split()[0] for name in EXAMPLES} - {"sendmail"}))
def test_a_wrong_command_changes_nothing(name: str, template: tuple[Path, str], tmp_path: Path) -> None:
    prepared, _ = template
    folder = tmp_path / "here"
    shutil.copytree(prepared, folder)
    before = _files(folder)
    result = invoke(folder, [name, "--no-such-option"])
    assert result.exit_code == 64
    assert "--no-such-option" in result.stderr
    assert "Example: " in result.stderr
    assert _files(folder) == before


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    assert "_MAILSERVER_COMPLETE" in CliRunner().invoke(main, ["completion", shell]).stdout
    done = run(
        [ours("mailserver")],
        env={
            "COMP_WORDS": "mailserver tr",
            "COMP_CWORD": "tr" if shell == "fish" else "1",
            "_MAILSERVER_COMPLETE": f"{shell}_complete",
        },
    )
    assert "trace" in done.stdout
