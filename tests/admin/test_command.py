"""The ``mailserver`` command in one process: what it prints, and how a failure ends."""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from mailserver.accounts.directory import SqliteDirectory
from mailserver.accounts.login_key import LoginKey
from mailserver.accounts.passwords import verify_password
from mailserver.admin import command, operator
from mailserver.admin.command import main
from mailserver.policy.suppressions import Suppressions
from mailserver.values.account import Secrets
from mailserver.values.address import address_from

TOML = """
hostname = "mx.example.test"
domains = ["example.test", "пошта.укр"]
[store]
format = "mbox"
"""

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "mailserver.toml").write_text(TOML)

    def invoke(*arguments: str, input: str | bytes | None = None) -> Result:
        return CliRunner().invoke(
            main, ["--config", str(tmp_path / "mailserver.toml"), *arguments], input=input
        )

    return invoke


def add_ada(run: Run) -> None:
    assert run("user", "add", "ada@example.test", "--password-stdin", input="secret\n").exit_code == 0


def directory(folder: Path) -> SqliteDirectory:
    opened = SqliteDirectory(folder / "state" / "accounts.sqlite", ["example.test", "пошта.укр"])
    opened.open()
    return opened


def hash_of(folder: Path, login: str) -> str:
    opened = directory(folder)
    found = opened.password_hash(login)
    opened.close()
    assert found is not None
    return found[1]


def secrets_of(folder: Path, login: str) -> Secrets:
    opened = directory(folder)
    found = opened.secrets(login)
    opened.close()
    assert found is not None
    return found[1]


def failure(result: Result) -> tuple[int, str]:
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    return result.exit_code, lines[0]


# -- users ---------------------------------------------------------------------------------------


def test_a_user_is_added_listed_and_removed(run: Run, tmp_path: Path) -> None:
    added = run("user", "add", "ada@example.test", "--password-stdin", input="secret\n")
    assert (added.exit_code, added.stdout) == (0, "ada@example.test added\n")
    run("user", "add", "олена@пошта.укр", "--format", "maildir", "--password-stdin", input="пароль\r\n")
    listed = run("user", "list")
    assert listed.stdout.splitlines() == [
        "address           format",
        "ada@example.test  mbox",
        "олена@пошта.укр   maildir",
    ]
    assert verify_password(hash_of(tmp_path, "ada"), "secret")
    assert verify_password(hash_of(tmp_path, "олена"), "пароль")
    removed = run("user", "remove", "ada@example.test", "--yes")
    assert removed.stdout == f"ada@example.test removed; its mail stays in {tmp_path / 'maildirs'}\n"
    assert "ada" not in run("user", "list").stdout


def test_json(run: Run) -> None:
    added = run("user", "add", "سارا@example.test", "--password-stdin", "--json", input="secret\n")
    assert json.loads(added.stdout) == {"address": "سارا@example.test", "format": "mbox"}
    assert json.loads(run("user", "list", "--json").stdout) == [
        {"address": "سارا@example.test", "format": "mbox", "may_send_as": [], "language": ""}
    ]
    aliased = run("alias", "add", "satış@example.test", "سارا@example.test", "--json")
    expected = {"address": "satış@example.test", "targets": ["سارا@example.test"]}
    assert json.loads(aliased.stdout) == expected
    assert json.loads(run("alias", "list", "--json").stdout) == [expected]
    removed = json.loads(run("user", "remove", "سارا@example.test", "--yes", "--json").stdout)
    assert removed == {"address": "سارا@example.test", "aliases": ["satış@example.test"]}


def test_where_mail_goes(run: Run) -> None:
    added = run(
        "user", "add", "bot@example.test", "--deliver", "|/bin/cat -u", "--password-stdin", input="secret\n"
    )
    assert added.exit_code == 0, added.stderr
    assert run("user", "list").stdout.splitlines()[1].split(maxsplit=2)[2] == "|/bin/cat -u"
    for wrong in ("|cat", "lmtp:/run/x", ":dump:", "|/bin/cat 'open", "/var/mail/"):
        refused = run("user", "deliver", "bot@example.test", wrong)
        assert refused.exit_code == os.EX_DATAERR, wrong
        assert len(refused.stderr.splitlines()) == 1
    assert run("user", "deliver", "bot@example.test").exit_code == os.EX_USAGE
    back = run("user", "deliver", "bot@example.test", "--mailbox")
    assert back.stdout == "mail for bot@example.test goes to its mailbox\n"
    assert run("user", "list").stdout.splitlines()[0].split() == ["address", "format"]


def test_an_alias_to_a_command_with_an_end_and_an_owner(run: Run) -> None:
    add_ada(run)
    arguments = ("alias", "add", "shop@example.test", "|/bin/cat", "ada@example.test")
    made = run(*arguments, "--until", "7d", "--owner", "ada@example.test", "--json")
    assert made.exit_code == 0, made.stderr
    fields = json.loads(made.stdout)
    assert fields["targets"] == ["|/bin/cat", "ada@example.test"]
    assert fields["until"] > 0
    listed = json.loads(run("alias", "list", "--json").stdout)[0]
    assert (listed["owner"], listed["targets"]) == ("ada@example.test", fields["targets"])
    wrong = {
        ("--until", "someday"): os.EX_USAGE,
        ("--until", "2001-01-01"): os.EX_DATAERR,
        ("--owner", "bob@example.test"): os.EX_NOUSER,
    }
    for options, code in wrong.items():
        refused = run("alias", "add", "other@example.test", "ada@example.test", *options)
        assert refused.exit_code == code, options


def test_senders_are_allowed_and_taken_back(run: Run) -> None:
    run("user", "add", "ada@example.test", "--may-send-as", "*", "--password-stdin", input="secret\n")
    assert run("user", "list").stdout.splitlines()[1].split() == ["ada@example.test", "mbox", "*"]
    done = run("user", "allow", "ada@example.test", "news@list.test", "@example.org")
    assert done.stdout == "ada@example.test may send as news@list.test, @example.org\n"
    run("user", "allow", "ada@example.test", "--none")
    assert run("user", "list").stdout.splitlines()[0].split() == ["address", "format"]
    assert run("user", "allow", "ada@example.test").exit_code == os.EX_USAGE
    assert run("user", "allow", "ada@example.test", "everybody").exit_code == os.EX_DATAERR
    assert run("user", "allow", "nobody@example.test", "*").exit_code == os.EX_NOUSER


def test_a_user_has_a_language(run: Run) -> None:
    run("user", "add", "ada@example.test", "--language", "tr", "--password-stdin", input="secret\n")
    assert run("user", "list").stdout.splitlines()[1].split() == ["ada@example.test", "mbox", "tr"]
    assert run("user", "set", "ada@example.test", "--language", "uk").stdout.endswith("in Українська\n")
    assert json.loads(run("user", "list", "--json").stdout)[0]["language"] == "uk"
    assert run("user", "set", "ada@example.test", "--server-language").stdout.endswith("in English\n")
    assert run("user", "list").stdout.splitlines()[0].split() == ["address", "format"]
    assert run("user", "set", "ada@example.test").exit_code == os.EX_USAGE
    assert run("user", "set", "ada@example.test", "--language", "xx").exit_code == os.EX_USAGE
    assert run("user", "set", "nobody@example.test", "--language", "fa").exit_code == os.EX_NOUSER


def test_suppressions_are_shown_and_cleared(run: Run, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    empty = run("suppression", "list")
    assert (empty.exit_code, empty.stdout) == (0, "")
    assert "The list is off" in empty.stderr
    kept = Suppressions(tmp_path / "state" / "suppressions.sqlite", 600.0, time.time)
    kept.open()
    for name in ("x", "y", "z"):
        kept.add([address_from("ada@example.test")], address_from(f"{name}@b.test"), "5.1.1", "550 no")
    kept.close()
    rows = json.loads(run("suppression", "list", "--json").stdout)
    assert sorted(row["address"] for row in rows) == ["x@b.test", "y@b.test", "z@b.test"]
    assert json.loads(run("suppression", "list", "--account", "bob@example.test", "--json").stdout) == []
    assert run("suppression", "clear", "X@b.test").stdout == "1 address cleared\n"
    assert run("suppression", "clear", "X@b.test").exit_code == os.EX_NOUSER
    assert run("suppression", "clear").exit_code == os.EX_USAGE
    assert run("suppression", "clear", "--all").exit_code == os.EX_USAGE
    assert json.loads(run("suppression", "clear", "--all", "--yes", "--json").stdout) == {"cleared": 2}


def test_everything_is_kept_of_a_password(run: Run, tmp_path: Path) -> None:
    run("user", "add", "ada@example.test", "--password-stdin", input="secret\n")
    kept = secrets_of(tmp_path, "ada")
    assert sorted(kept.scram) == ["SCRAM-SHA-1", "SCRAM-SHA-256"]
    assert kept.cram_md5 == ""
    (tmp_path / "mailserver.toml").write_text(f"{TOML}[login]\ncram_md5 = true\n")
    run("user", "password", "ada@example.test", "--password-stdin", input="other\n")
    kept = secrets_of(tmp_path, "ada")
    assert LoginKey(tmp_path / "state" / "login.key").unseal(kept.cram_md5) == "other"


def test_a_password_is_changed(run: Run, tmp_path: Path) -> None:
    add_ada(run)
    result = run("user", "password", "ada@example.test", "--password-stdin", input="another\n")
    assert (result.exit_code, result.stdout) == (0, "ada@example.test has a new password\n")
    assert verify_password(hash_of(tmp_path, "ada"), "another")
    assert not verify_password(hash_of(tmp_path, "ada"), "secret")


def test_a_password_is_asked_for_twice(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["first", "secnd", "second", "second"])
    monkeypatch.setattr("click.termui.hidden_prompt_func", lambda _: next(answers))
    monkeypatch.setattr("mailserver.admin.user.sys.stdin", Terminal())
    with click.Context(main):
        from mailserver.admin.user import _password

        given = _password(
            False, address_from("ada@example.test"), operator.Operator(tmp_path / "mailserver.toml")
        )
    assert given == "second"


class Terminal:
    def isatty(self) -> bool:
        return True


def test_lists_of_nothing_make_no_file(run: Run, tmp_path: Path) -> None:
    for group in ("user", "alias"):
        result = run(group, "list")
        assert (result.exit_code, result.stdout) == (0, "")
        assert result.stderr.startswith("There are no ")
        assert json.loads(run(group, "list", "--json").stdout) == []
    assert not (tmp_path / "state").exists()


def test_an_alias_that_names_a_removed_user_is_told(run: Run) -> None:
    add_ada(run)
    run("alias", "add", "sales@example.test", "ada@example.test", "bob@elsewhere.test")
    assert run("alias", "list").stdout.splitlines() == [
        "address             targets",
        "sales@example.test  ada@example.test, bob@elsewhere.test",
    ]
    result = run("user", "remove", "ada@example.test", "--yes")
    assert result.stderr == "mailserver: the alias sales@example.test still names ada@example.test\n"
    assert run("alias", "remove", "sales@example.test", "--yes").stdout == "sales@example.test removed\n"


# -- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("user add", 64, "Missing argument 'ADDRESS'. Example: mailserver user add ada@example.test"),
        (
            "user add ada",
            64,
            "'ada' is not a mail address; expected local-part@domain. Example: mailserver user add",
        ),
        ("user add bob@example.test --format tar --password-stdin", 64, "'tar' is not one of"),
        ("user add bob@example.test --pasword-stdin", 64, "No such option '--pasword-stdin'. Did you mean"),
        (
            "user add bob@example.test",
            64,
            "no terminal to ask for the password at; give it with --password-stdin",
        ),
        ("user add bob@elsewhere.test --password-stdin", 65, "elsewhere.test is not a domain of this server"),
        ("user add a/b@example.test --password-stdin", 65, "may not hold"),
        ("user add ada@example.test --password-stdin", 73, "ada@example.test exists already, as a user"),
        ("user password bob@example.test --password-stdin", 67, "bob@example.test is not a user"),
        ("user remove bob@example.test --yes", 67, "bob@example.test is not a user; `mailserver user list`"),
        ("user remove ada@example.test", 64, "There is no terminal to ask at; confirm with --yes"),
        ("usr", 64, "No such command 'usr'"),
        ("user ad", 64, "No such command 'ad'"),
        ("alias add sales@example.test", 64, "Missing argument 'TARGET...'"),
        ("alias add sales@example.test sales@example.test", 65, "would lead back to itself"),
        (
            "alias add sales@example.test bob@example.test",
            67,
            "bob@example.test is neither a user nor an alias",
        ),
        ("alias remove sales@example.test --yes", 67, "sales@example.test is not an alias"),
        ("alias remove sales@example.test", 64, "confirm with --yes"),
    ],
)
def test_a_refusal_is_one_line_and_a_code(run: Run, arguments: str, code: int, words: str) -> None:
    add_ada(run)
    found, line = failure(run(*arguments.split(), input="secret\n"))
    assert found == code
    assert line.startswith("mailserver: ")
    assert words in line
    assert [u["address"] for u in json.loads(run("user", "list", "--json").stdout)] == ["ada@example.test"]


@pytest.mark.parametrize(
    ("password", "words"), [(b"\n", "1 to 1024"), (b"a\x00b\n", "control"), (b"\xff\n", "UTF-8")]
)
def test_passwords_that_cannot_be(run: Run, password: bytes, words: str) -> None:
    code, line = failure(run("user", "add", "ada@example.test", "--password-stdin", input=password))
    assert code == 65
    assert words in line


def test_a_command_without_its_subcommand_shows_help(run: Run) -> None:
    for arguments in ((), ("user",)):
        result = CliRunner().invoke(main, arguments)
        assert (result.exit_code, result.stdout) == (64, "")
        assert result.stderr.startswith("Usage: ")


def test_configuration_failures(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("hostname = 1\n[relay]\nretry = []\n")
    result = CliRunner().invoke(main, ["-c", str(wrong), "user", "list"])
    assert (result.exit_code, result.stdout) == (78, "")
    assert [line.split(": ")[2] for line in result.stderr.splitlines()] == ["hostname", "relay.retry"]
    code, line = failure(CliRunner().invoke(main, ["-c", str(tmp_path / "none.toml"), "config", "check"]))
    assert code == 66
    assert "none.toml: cannot be read: No such file or directory" in line


def test_a_broken_directory_is_unavailable(run: Run, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "accounts.sqlite").write_bytes(b"not a database" * 1000)
    code, line = failure(run("user", "list"))
    assert code == 69
    assert "accounts.sqlite: file is not a database" in line


def test_what_nobody_expected_is_still_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(operator.Operator, "settings", property(broken))
    code, line = failure(run("user", "list"))
    assert code == 70
    assert "RuntimeError: out of luck; MAILSERVER_DEBUG=1" in line
    monkeypatch.setenv("MAILSERVER_DEBUG", "1")
    assert isinstance(run("user", "list").exception, RuntimeError)


def test_a_question_answered_with_no_changes_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    add_ada(run)
    monkeypatch.setattr(operator, "confirm", confirmed_no)
    monkeypatch.setattr("mailserver.admin.user.confirm", confirmed_no)
    assert failure(run("user", "remove", "ada@example.test")) == (
        1,
        "mailserver: stopped; nothing was changed",
    )
    assert "ada" in run("user", "list").stdout


def confirmed_no(question: str, yes: bool) -> None:
    raise click.Abort


# -- help ----------------------------------------------------------------------------------------


def every_command() -> list[tuple[str, ...]]:
    context = click.Context(main)
    found: list[tuple[str, ...]] = []
    for name in command.GROUPS:
        group = main.get_command(context, name)  # type: ignore[attr-defined]
        found += [(name,), *((name, inner) for inner in getattr(group, "commands", ()))]
    return found


@pytest.mark.parametrize("path", every_command(), ids=" ".join)
def test_every_command_has_help_with_an_example_that_it_understands(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*path, "--help"])
    assert result.exit_code == 0
    example = shlex.split(result.stdout.split("Example: ")[1])
    assert example[0] == "mailserver"
    words = [word for word in example[1:] if word not in ("--config", "mailserver.toml")]
    assert tuple(words[: len(path)]) == path
    group = main.get_command(click.Context(main), words[0])  # type: ignore[attr-defined]
    in_group = hasattr(group, "commands")
    leaf, rest = (group.commands[words[1]], words[2:]) if in_group else (group, words[1:])
    with leaf.make_context(words[0], rest):
        pass


# -- config --------------------------------------------------------------------------------------


def test_config_show_prints_a_file_that_comes_to_the_same(run: Run, tmp_path: Path) -> None:
    shown = run("config", "show").stdout
    (tmp_path / "again.toml").write_text(shown)
    again = CliRunner().invoke(main, ["-c", str(tmp_path / "again.toml"), "config", "show"])
    assert again.stdout == shown
    assert 'retry = ["5m", "10m", "20m", "40m", "1h20m", "2h40m", "4h"]' in shown
    limits = json.loads(run("config", "show", "--json").stdout)["limits"]
    assert (limits["message_size"], limits["recipients"]) == ("50 MiB", 1000)


def test_config_show_keeps_routes_and_sizes(tmp_path: Path) -> None:
    path = tmp_path / "mailserver.toml"
    routes = '[relay.routes]\n"*" = "smtp://smarthost.test"\n"бюро.укр" = "smtp://b.test"\n'
    path.write_text(f'{TOML}{routes}[limits]\nmessage_size = 1000001\n[tls]\ncertificate = "c"\nkey = "k"\n')
    result = CliRunner().invoke(main, ["-c", str(path), "config", "show"])
    shown = result.stdout
    assert result.stderr == ""
    assert '"*" = "smtp://smarthost.test"' in shown
    assert '"бюро.укр" = "smtp://b.test"' in shown
    assert "message_size = 1000001" in shown
    assert f'certificate = "{tmp_path / "c"}"' in shown


def test_config_check(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mailserver.toml"
    assert run("config", "check").stdout == f"{path}: no mistakes\n"
    assert json.loads(run("config", "check", "--json").stdout)["domains"] == ["example.test", "пошта.укр"]
    path.write_text(
        TOML + '[listen]\nsmtp = "tcp:25:backlog=x"\n[tls]\ncertificate = "c.pem"\nkey = "k.pem"\n'
    )
    result = run("config", "check")
    assert result.exit_code == os.EX_CONFIG
    one, two = result.stderr.splitlines()
    assert one.startswith(f'mailserver: {path}: listen.smtp: "tcp:25:backlog=x" is not understood by Twisted')
    assert two.startswith(f"mailserver: {path}: tls: {tmp_path / 'c.pem'}: No such file")
    path.write_text(TOML + '[listen]\npop3s = "tls:33"\n[policy]\nrules = ["nowhere_to_be_found:rule"]\n')
    result = run("config", "check")
    assert result.exit_code == os.EX_CONFIG
    one, two = result.stderr.splitlines()
    assert 'listen.pop3s: "tls:33" would do TLS twice' in one
    assert "policy.rules: nowhere_to_be_found:rule: ModuleNotFoundError" in two


def test_config_check_looks_at_files_and_at_own_code(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mailserver.toml"
    (tmp_path / "a file").write_text("no certificate")
    path.write_text(
        'directory = "nowhere_to_be_found:Directory"\nstate = "a file/state"\n'
        f"{TOML}"
        'path = "a file"\n[login]\noauth = "json:loads"\n'
        '[relay]\nauthorities = "a file"\n[relay.routes]\n'
        '"*" = { host = "smarthost.test", tls = "required", user = "ada", password_file = "absent" }\n'
    )
    result = run("config", "check")
    assert result.exit_code == os.EX_CONFIG
    said = [line.removeprefix(f"mailserver: {path}: ") for line in result.stderr.splitlines()]
    assert [one.partition(": ")[0].partition(",")[0] for one in said] == [
        "state",
        "store.path",
        'relay.routes."*".password_file',
        "relay.authorities",
        "directory",
        "login.oauth = 'json:loads' has no user_of(token",
    ]
    assert (
        said[0]
        == f"state: {tmp_path / 'a file'} is not a folder; name a folder, or a place where one can be made"
    )
    assert said[2].endswith("absent: No such file or directory")


def test_a_mistake_elsewhere_keeps_nobody_from_the_queue(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mailserver.toml"
    path.write_text(
        f'{TOML}[limits]\nfoo = 3\nrecipients = "many"\n[tls]\nkey = "k"\n[relay]\nretry = ["soon"]\n'
        '[relay.routes]\n"*" = 3\n'
    )
    result = run("queue", "list", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, [])
    said = result.stderr.splitlines()
    assert all(line.startswith(f"mailserver: passed over: {path}: ") for line in said)
    assert len(said) == 5
    assert run("config", "show").exit_code == os.EX_CONFIG
    misplaced = ("[limits]\nstate = 'real'\n", "[relay]\nstat = 'real'\n", "[tls]\nworkers = 2\n")
    others = ("[login]\ncram_md5 = 3\n", "[pop3]\napop = 3\n", "[store]\nformat = 3\n")
    for wrong in ("stat = 3\n", 'state = ""\n', "state = 3\n", "no toml\n", *misplaced, *others):
        path.write_text(f"domains = ['example.test']\n{wrong}foo = 3\n")
        assert run("queue", "list").exit_code == os.EX_CONFIG, wrong
