"""The ``mailserver`` command: its options, its groups, and how a failure ends.

Exit codes are those of sysexits: 64 a wrong command, 65 wrong data, 66 no such file, 67 no such user
or entry, 69 unavailable, 70 a fault of ours, 73 exists already, 74 a failing disk, 77 not permitted,
78 a wrong configuration; and 1 when a question was answered with no, or the reader of the output went away.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click

import mailserver
from mailserver.admin.operator import WHO_MAY, Operator, Refusal

GROUPS = (
    "alias",
    "check",
    "completion",
    "config",
    "deliver",
    "dns",
    "explain",
    "domain",
    "ledger",
    "lists",
    "mailbox",
    "mailq",
    "newaliases",
    "queue",
    "recall",
    "route",
    "send",
    "sendmail",
    "suppression",
    "terminal",
    "trace",
    "user",
)
"""Each is a module here with a click command or group of the same name, imported when it is used."""


DESPITE_MISTAKES = ("alias", "ledger", "mailq", "queue", "recall", "route", "suppression", "trace", "user")
"""Groups that work beside a mistake in the configuration which does not concern them."""

USUAL_NAMES = ("mailq", "newaliases", "sendmail")
"""A link of such a name that leads to ``mailserver`` is the command of that name."""


class Program(click.Group):
    """The groups above, and one line on standard error for whatever goes wrong."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(GROUPS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in GROUPS:
            return None
        group: click.Command = getattr(import_module(f"mailserver.admin.{cmd_name}"), cmd_name)
        return group

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        """Run, and leave by ``SystemExit`` with one of the codes above."""
        extra["standalone_mode"] = False
        called = Path(sys.argv[0]).name
        if called in USUAL_NAMES and not args and not extra.get("args"):
            extra["args"] = [called, *sys.argv[1:]]
            extra["prog_name"] = "mailserver"  # in "Usage: mailserver mailq"
        sys.exit(_exit_code(lambda: super(Program, self).main(*args, **extra)))


def _exit_code(run: Callable[[], object]) -> int:
    try:
        result = run()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return os.EX_USAGE
    except click.UsageError as error:
        return _say(os.EX_USAGE, f"{error.format_message()} {_example(error.ctx)}")
    except click.Abort:
        return _say(1, "stopped; nothing was changed")
    except click.ClickException as error:
        return _say(os.EX_USAGE, error.format_message())
    except Refusal as refusal:
        return _say(refusal.exit_code, str(refusal))
    except PermissionError as error:
        return _say(os.EX_NOPERM, f"{error.filename}: {error.strerror}; {WHO_MAY}")
    except OSError as error:
        return _say(os.EX_IOERR, f"{error.filename or 'the system'}: {error.strerror or error}")
    except Exception as error:
        if os.environ.get("MAILSERVER_DEBUG"):
            raise
        fault = f"a fault in the program: {type(error).__name__}: {error}"
        return _say(os.EX_SOFTWARE, f"{fault}; MAILSERVER_DEBUG=1 shows where")
    return result if isinstance(result, int) else os.EX_OK


def _say(code: int, text: str) -> int:
    for line in text.splitlines():
        click.echo(f"mailserver: {line}", err=True)
    return code


def _example(ctx: click.Context | None) -> str:
    epilog = ctx.command.epilog if ctx else None
    return epilog or "see mailserver --help"


@click.command(cls=Program, epilog="Example: mailserver user add ada@example.test", no_args_is_help=True)
@click.option(
    "-c",
    "--config",
    "path",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The configuration; else ./mailserver.toml, /etc/mailserver/mailserver.toml, the quick start.",
)
@click.version_option(mailserver.__version__, prog_name="mailserver")
@click.pass_context
def main(ctx: click.Context, path: Path | None) -> None:
    """Operate the mail server: its users, aliases, queue and configuration. Works while it runs."""
    ctx.obj = Operator(path, ctx.invoked_subcommand in DESPITE_MISTAKES)


if __name__ == "__main__":
    main()
