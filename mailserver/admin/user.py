"""``mailserver user``: accounts and their passwords."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from mailserver.admin.directory_pages import moment_text, show_all
from mailserver.admin.moments import MOMENT
from mailserver.admin.operator import ADDRESS, Operator, Refusal, become_owner, confirm, yes_option
from mailserver.admin.output import Output, json_option
from mailserver.admin.quota_option import AS_CONFIGURED, QuotaType, quota_text
from mailserver.values.account import Account, Away, Secrets
from mailserver.values.address import Address
from mailserver.words import LANGUAGES

language_option = click.option(
    "--language", type=click.Choice(list(LANGUAGES)), default=None, help="What the user reads in our reports."
)
quota_option = click.option(
    "--quota",
    type=QuotaType(),
    default=None,
    help="How much its mailbox may hold, as 1GiB; 0 for no limit, server for what the configuration says.",
)
stdin_option = click.option(
    "--password-stdin", "from_stdin", is_flag=True, help="Read the password's line from standard input."
)


@click.group(epilog="Example: mailserver user add ada@example.test")
def user() -> None:
    """Add, list and remove users; change passwords."""


@user.command(epilog="Example: mailserver user add ada@example.test --format mbox")
@click.argument("address", type=ADDRESS)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["maildir", "mbox"]),
    default=None,
    help="How the mailbox is kept; else as [store] says.",
)
@click.option(
    "--may-send-as",
    "senders",
    metavar="SENDER",
    multiple=True,
    help="An address, @domain or * that it may write as, beside its own.",
)
@language_option
@quota_option
@click.option(
    "--deliver",
    metavar="WHERE",
    default="",
    help="Where mail goes instead of a mailbox: '|/path/of/command arguments', /path/of/file, :discard:, "
    "lmtp:unix:/path, agent:NAME.",
)
@stdin_option
@json_option
@click.pass_obj
def add(
    operator: Operator,
    address: Address,
    format_: str | None,
    senders: tuple[str, ...],
    deliver: str,
    language: str | None,
    quota: int | None,
    from_stdin: bool,
    as_json: bool,
) -> None:
    """Make an account for ADDRESS and ask for its password."""
    output = Output(as_json)
    secrets = _secrets(_password(from_stdin, address, operator), operator)
    with operator.directory() as directory:
        account = directory.add_user(address, secrets, format_ or "", deliver)
        if senders:
            directory.allow_senders(account.address, senders)
        if language:
            directory.set_language(account.address, language)
        if quota is not None and quota != AS_CONFIGURED:
            directory.set_quota(account.address, quota)
    name = str(account.address)
    output.done(f"{name} added", address=name, format=_format(operator, account.format))


@user.command("list", epilog="Example: mailserver user list --json")
@json_option
@click.pass_obj
def list_(operator: Operator, as_json: bool) -> None:
    """Show every account."""
    show_all(
        operator,
        as_json,
        lambda directory: [_row(operator, account) for account in directory.users()],
        ("address", "format", *_RARE),
        "There are no users yet; mailserver user add ada@example.test",
        rare=_RARE,
    )


_RARE = ("may_send_as", "language", "quota", "deliver", "away")


def _row(operator: Operator, account: Account) -> dict[str, Any]:
    away = account.away
    rare = {"deliver": account.deliver} if account.deliver else {}
    if account.quota is not None:
        rare["quota"] = quota_text(account.quota)
    if away is not None:
        rare["away"] = f"until {moment_text(away.ends)}" if away.ends else "until further notice"
    return {
        "address": str(account.address),
        "format": _format(operator, account.format),
        "may_send_as": list(account.may_send_as),
        "language": account.language,
        **rare,
    }


@user.command(epilog="Example: mailserver user password ada@example.test")
@click.argument("address", type=ADDRESS)
@stdin_option
@json_option
@click.pass_obj
def password(operator: Operator, address: Address, from_stdin: bool, as_json: bool) -> None:
    """Give the account of ADDRESS another password."""
    output = Output(as_json)
    secrets = _secrets(_password(from_stdin, address, operator), operator)
    with operator.directory() as directory:
        directory.set_password(address, secrets)
    output.done(f"{address} has a new password", address=str(address))


@user.command("set", epilog="Example: mailserver user set ada@example.test --language tr --quota 5GiB")
@click.argument("address", type=ADDRESS)
@language_option
@click.option("--server-language", is_flag=True, help="Write to the user as the configuration says.")
@quota_option
@json_option
@click.pass_obj
def set_(
    operator: Operator,
    address: Address,
    language: str | None,
    server_language: bool,
    quota: int | None,
    as_json: bool,
) -> None:
    """Change what is kept of an account: the language in which the server writes to its owner, its quota."""
    output = Output(as_json)
    in_words = language is not None or server_language
    if (language is not None and server_language) or not (in_words or quota is not None):
        what = "Give --language or --server-language, or --quota."
        raise click.UsageError(what, click.get_current_context())
    changes: list[str] = []
    fields: dict[str, Any] = {}
    with operator.directory() as directory:
        if in_words:
            directory.set_language(address, language or "")
            changes.append(f"is written to in {LANGUAGES[language or operator.settings.language]}")
            fields["language"] = language or ""
        if quota is not None:
            kept = None if quota == AS_CONFIGURED else quota
            directory.set_quota(address, kept)
            changes.append(f"may keep {quota_text(kept)}")
            fields["quota"] = kept
    output.done(f"{address} {' and '.join(changes)}", address=str(address), **fields)


@user.command(epilog="Example: mailserver user remove ada@example.test --yes")
@click.argument("address", type=ADDRESS)
@yes_option
@json_option
@click.pass_obj
def remove(operator: Operator, address: Address, yes: bool, as_json: bool) -> None:
    """Remove the account of ADDRESS. Its mail stays in the store."""
    output = Output(as_json)
    store = operator.settings.store.path
    confirm(f"Remove {address}? Mail for it will be refused; what it has stays in {store}.", yes)
    with operator.directory() as directory:
        directory.remove_user(address)
        dangling = [str(alias) for alias in directory.aliases_to(address)]
    for alias in dangling:
        click.echo(f"mailserver: the alias {alias} still names {address}", err=True)
    output.done(f"{address} removed; its mail stays in {store}", address=str(address), aliases=dangling)


@user.command(epilog="Example: mailserver user allow ada@example.test news@list.test @example.org")
@click.argument("address", type=ADDRESS)
@click.argument("senders", metavar="SENDER...", nargs=-1)
@click.option("--none", "nobody", is_flag=True, help="Take back what was allowed.")
@json_option
@click.pass_obj
def allow(
    operator: Operator, address: Address, senders: tuple[str, ...], nobody: bool, as_json: bool
) -> None:
    """Let ADDRESS write as SENDER too: an address, @domain, or * for everybody; beside its own address and
    the aliases that lead to it. What was allowed before is replaced. Counts from its next log-in on."""
    output = Output(as_json)
    if bool(senders) is nobody:
        raise click.UsageError("Name at least one SENDER, or --none.", click.get_current_context())
    with operator.directory() as directory:
        directory.allow_senders(address, senders)
    whom = ", ".join(senders) or "nobody but itself and its aliases"
    output.done(f"{address} may send as {whom}", address=str(address), may_send_as=list(senders))


@user.command(epilog="Example: mailserver user deliver ada@example.test '|/usr/local/bin/tickets --new'")
@click.argument("address", type=ADDRESS)
@click.argument("where", metavar="WHERE", required=False, default="")
@click.option("--mailbox", is_flag=True, help="To the mailbox again.")
@json_option
@click.pass_obj
def deliver(operator: Operator, address: Address, where: str, mailbox: bool, as_json: bool) -> None:
    """Let mail for ADDRESS go to a command, a file, another store or nowhere, instead of its mailbox.

    WHERE is '|/path/of/command arguments', /path/of/file, :discard:, lmtp:unix:/path or agent:NAME. No shell
    reads a command; the message comes on its standard input, and its exit status decides (sysexits)."""
    output = Output(as_json)
    if bool(where) is mailbox:
        raise click.UsageError("Name WHERE the mail goes, or --mailbox.", click.get_current_context())
    with operator.directory() as directory:
        directory.set_delivery(address, where)
    output.done(f"mail for {address} goes to {where or 'its mailbox'}", address=str(address), deliver=where)


@user.command(epilog="Example: mailserver user away ada@example.test --until 14d --text-file answer.txt")
@click.argument("address", type=ADDRESS)
@click.option("--from", "begins", type=MOMENT, help="When it begins; else now.")
@click.option("--until", "ends", type=MOMENT, help="When it ends: 14d, or a date like 2026-12-31.")
@click.option(
    "--text-file",
    "file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="What it says, in UTF-8; - is standard input.",
)
@click.option("--back", is_flag=True, help="End it now.")
@json_option
@click.pass_obj
def away(
    operator: Operator,
    address: Address,
    begins: float | None,
    ends: float | None,
    file: Path | None,
    back: bool,
    as_json: bool,
) -> None:
    """Answer mail for ADDRESS while its owner is away: each sender once in seven days, never lists, reports
    or other programs. Without a text the server says so in the account's language."""
    output = Output(as_json)
    if back and (begins or ends or file):
        raise click.UsageError("--back stands alone.", click.get_current_context())
    text = _text_of(file) if file else ""
    with operator.directory() as directory:
        directory.set_away(address, None if back else Away(text, begins or 0.0, ends or 0.0))
    if back:
        output.done(f"{address} is back", address=str(address), away=False)
        return
    when = f"from {moment_text(begins)} " if begins else ""
    when += f"until {moment_text(ends)}" if ends else "until `mailserver user away --back`"
    output.done(
        f"{address} is away {when}", address=str(address), away=True, begins=begins or 0, ends=ends or 0
    )


MOST_AWAY_CHARACTERS = 20_000


def _text_of(file: Path) -> str:
    try:
        with click.open_file(str(file), "r", encoding="utf-8") as stream:
            text: str = stream.read(MOST_AWAY_CHARACTERS + 1).strip()
    except UnicodeDecodeError:
        raise Refusal(os.EX_DATAERR, f"{file} is not UTF-8") from None
    except FileNotFoundError:
        raise Refusal(os.EX_NOINPUT, f"{file} does not exist; name a file with the answer's text") from None
    if len(text) > MOST_AWAY_CHARACTERS:
        raise Refusal(os.EX_DATAERR, f"the text is longer than {MOST_AWAY_CHARACTERS} characters")
    return text


def _format(operator: Operator, format_: str) -> str:
    return format_ or operator.settings.store.format


def _secrets(password: str, operator: Operator) -> Secrets:
    from mailserver.accounts.login_key import FILE_NAME, LoginKey
    from mailserver.accounts.secrets import secrets_of

    state = operator.settings.state
    settings = operator.settings
    key = LoginKey(state / FILE_NAME) if settings.login.cram_md5 or settings.pop3.apop else None
    if key is not None:
        become_owner(state)
    try:
        return secrets_of(password, key)
    except ValueError as error:
        raise Refusal(os.EX_DATAERR, str(error)) from error


def _password(from_stdin: bool, address: Address, operator: Operator) -> str:
    """The password, never from an argument: arguments are seen by everybody on the machine."""
    _ = operator.settings  # what is wrong with them should be known before anybody types
    if from_stdin:
        return _line_of_stdin()
    if not sys.stdin.isatty():
        raise click.UsageError(
            "there is no terminal to ask for the password at; give it with --password-stdin.",
            click.get_current_context(),
        )
    answer: str = click.prompt(f"Password for {address}", hide_input=True, confirmation_prompt=True, err=True)
    return answer


def _line_of_stdin() -> str:
    octets = sys.stdin.buffer.readline(16 * 1024)
    try:
        return octets.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise Refusal(os.EX_DATAERR, "the password on standard input is not UTF-8") from None
