"""What every command shares: the settings, the files of the state folder, refusals, and questions."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mailserver.values.address import Address, address_from

if TYPE_CHECKING:
    from mailserver.accounts.directory import SqliteDirectory
    from mailserver.config import Settings

WHO_MAY = "run it as root or as the mail server's user"

PATIENCE = 10.0
"""Seconds that a command waits for somebody else who writes."""


class Refusal(Exception):
    """The command did not do what was asked; ``exit_code`` is one of sysexits'."""

    def __init__(self, exit_code: int, text: str) -> None:
        super().__init__(text)
        self.exit_code = exit_code


class Operator:
    """Who runs a command, with the configuration named by ``--config`` or found like the server's."""

    def __init__(self, path: Path | None, despite_mistakes: bool = False) -> None:
        """``despite_mistakes``: the command looks after the running server, which does not know of what
        somebody has just mistyped; where accounts, queue and mailboxes are must be clear."""
        self._named = path
        self._despite_mistakes = despite_mistakes
        self.who = _who()

    @cached_property
    def path(self) -> Path | None:
        """The configuration file; ``None`` for the quick start in the working folder."""
        from mailserver.config import find

        return self._named or find()

    @cached_property
    def settings(self) -> Settings:
        """The settings.

        Raises:
            Refusal: 66 when the file cannot be read, 78 when something in it is wrong.
        """
        from mailserver.config import ConfigError, ConfigUnreadable, load, load_despite, quick_start

        try:
            if self.path is None:
                return quick_start(Path.cwd())
            if not self._despite_mistakes:
                return load(self.path)
            settings, mistakes = load_despite(self.path)
            for mistake in mistakes:
                click.echo(f"mailserver: passed over: {mistake}", err=True)
            return settings
        except ConfigUnreadable as error:
            raise Refusal(os.EX_NOINPUT, str(error)) from error
        except ConfigError as error:
            raise Refusal(os.EX_CONFIG, str(error)) from error

    @property
    def accounts(self) -> Path:
        """The directory's file."""
        from mailserver.accounts.directory import FILE_NAME

        return self.settings.state / FILE_NAME

    @contextmanager
    def directory(self) -> Iterator[SqliteDirectory]:
        """The directory, open; what it refuses becomes a ``Refusal``."""
        from mailserver.accounts import directory as accounts

        state = self.settings.state
        if self.settings.directory != "sqlite":
            kept = self.settings.directory
            raise Refusal(
                os.EX_UNAVAILABLE, f"accounts are kept elsewhere (directory = {kept!r}); change them there"
            )
        directory = accounts.SqliteDirectory(
            self.accounts,
            self.settings.domains,
            patience=PATIENCE,
            separators=self.settings.addresses.separator,
        )
        is_new = not state.exists()
        become_owner(state)
        try:
            directory.open()
            if is_new and os.geteuid() == 0:
                click.echo(
                    f"mailserver: made {state}, owned by root; a server with --uid needs it chowned", err=True
                )
            yield directory
        except accounts.AlreadyExists as error:
            raise Refusal(os.EX_CANTCREAT, str(error)) from error
        except accounts.NotFound as error:
            raise Refusal(os.EX_NOUSER, str(error)) from error
        except accounts.DirectoryError as error:
            raise Refusal(os.EX_DATAERR, str(error)) from error
        except accounts.DirectoryUnavailable as error:
            if isinstance(error.__cause__, PermissionError):
                raise Refusal(os.EX_NOPERM, f"{error}; {WHO_MAY}") from error
            raise Refusal(os.EX_UNAVAILABLE, str(error)) from error
        finally:
            directory.close()


def become_owner(folder: Path) -> None:
    """Run by root, go on as the user who owns ``folder``: the server, started with ``twistd --uid``, must
    be able to read and write every file that is made, and root must not follow what others planted
    there. Without a folder, or for anybody else than root, nothing changes.

    Whatever is still to be imported may be out of that user's reach: import first.
    """
    if os.geteuid() != 0 or not folder.exists():
        return
    owner = folder.stat()
    if owner.st_uid != 0:
        os.setgroups([owner.st_gid])
        os.setgid(owner.st_gid)
        os.setuid(owner.st_uid)


def ask_server(operator: Operator, name: str, **fields: Any) -> Any:
    """Ask the running server; with several workers, the first of them.

    Raises:
        Refusal: it does not run, or says why it has no answer.
    """
    from mailserver.control_client import NoServer, Refused, ask

    state = operator.settings.state
    become_owner(state)
    try:
        return ask(state, name, **fields)
    except NoServer as error:
        raise Refusal(os.EX_UNAVAILABLE, f"the server does not answer ({error}); is it running?") from error
    except Refused as error:
        raise Refusal(os.EX_DATAERR, str(error)) from error


def _who() -> str:
    """Who runs the command, for the trace."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = f"uid {os.getuid()}"
    behind = os.environ.get("SUDO_USER", "")
    return f"{name} for {behind}" if behind and behind != name else name


def ask_servers(operator: Operator, name: str, **fields: Any) -> list[Any]:
    """Ask every worker of the running server; the answers of those that answered, none when it does not run.

    Raises:
        Refusal: one of them says why it has no answer.
    """
    from mailserver.control_client import NoServer, Refused, ask, workers

    state = operator.settings.state
    become_owner(state)
    answers = []
    for worker in workers(state):
        try:
            answers.append(ask(state, name, worker, **fields))
        except NoServer:
            pass  # a socket that a killed process left behind
        except Refused as error:
            raise Refusal(os.EX_DATAERR, str(error)) from error
    return answers


class AddressType(click.ParamType[Address]):
    """An argument that is a mail address."""

    name = "address"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        if isinstance(value, Address):
            return value
        try:
            return address_from(str(value))
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


ADDRESS = AddressType()
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def confirm(question: str, yes: bool) -> None:
    """Ask before something is lost.

    Raises:
        Refusal: nobody is there to answer, and ``--yes`` was not given.
        click.Abort: the answer was no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise Refusal(os.EX_USAGE, f"{question} There is no terminal to ask at; confirm with --yes")
    click.confirm(question, abort=True, err=True)
