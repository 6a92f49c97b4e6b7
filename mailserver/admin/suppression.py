"""``mailserver suppression``: addresses that failed for good, by the account that wrote to them."""

from __future__ import annotations

import datetime
import os
import sqlite3
import time
from pathlib import Path

import click

from mailserver.admin.operator import ADDRESS, Operator, Refusal, become_owner, confirm, yes_option
from mailserver.admin.output import Output, json_option
from mailserver.policy.suppressions import FILE_NAME, clear, listed
from mailserver.values.address import Address

account_option = click.option(
    "--account", type=ADDRESS, default=None, metavar="ADDRESS", help="Of this account alone."
)


@click.group(epilog="Example: mailserver suppression list")
def suppression() -> None:
    """Show and clear addresses that failed for good and are refused at once (submission.suppress_for)."""


@suppression.command("list", epilog="Example: mailserver suppression list --account ada@example.test --json")
@account_option
@json_option
@click.pass_obj
def list_(operator: Operator, account: Address | None, as_json: bool) -> None:
    """Show the addresses, the latest first, with what the other server said and until when they stay."""
    output = Output(as_json)
    try:
        found = listed(_path(operator), time.time(), account)
    except (OSError, sqlite3.Error) as error:
        raise _unusable(operator, error) from error
    rows = [
        {
            "account": one.account,
            "address": one.address,
            "since": _moment(one.since),
            "until": _moment(one.until),
            "status": one.status,
            "reason": one.reason,
        }
        for one in found
    ]
    nothing = "No address is suppressed."
    if not operator.settings.submission.suppress_for:
        nothing += ' The list is off; [submission] suppress_for = "30d" turns it on.'
    output.rows(("account", "address", "until", "reason"), rows, nothing)


@suppression.command("clear", epilog="Example: mailserver suppression clear bob@partner.test")
@click.argument("addresses", metavar="ADDRESS...", type=ADDRESS, nargs=-1)
@account_option
@click.option("--all", "everything", is_flag=True, help="Every address, of the account or of all.")
@yes_option
@json_option
@click.pass_obj
def clear_(
    operator: Operator,
    addresses: tuple[Address, ...],
    account: Address | None,
    everything: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Let messages to these addresses go out again; a running server hears of it within two seconds."""
    output = Output(as_json)
    if bool(addresses) is everything:
        raise click.UsageError("Name at least one ADDRESS, or --all.", click.get_current_context())
    if everything:
        confirm(f"Forget every address{f' of {account}' if account else ''}?", yes)
    try:
        count = clear(_path(operator), account, addresses)
    except (OSError, sqlite3.Error) as error:
        raise _unusable(operator, error) from error
    if not count and addresses:
        raise Refusal(
            os.EX_NOUSER,
            f"{', '.join(map(str, addresses))}: not suppressed; `mailserver suppression list` shows what is",
        )
    output.done(f"{count} address{'es' * (count != 1)} cleared", cleared=count)


def _path(operator: Operator) -> Path:
    state = operator.settings.state
    become_owner(state)
    return state / FILE_NAME


def _unusable(operator: Operator, error: Exception) -> Refusal:
    return Refusal(os.EX_UNAVAILABLE, f"{operator.settings.state / FILE_NAME}: {error}")


def _moment(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")
