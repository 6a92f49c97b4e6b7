"""``mailserver mailbox verify`` and ``repair``: what is wrong with mailboxes, and mending it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import click

from mailserver.admin.mailbox_move import account_of, effective_format, mailboxes_of
from mailserver.admin.operator import ADDRESS, Operator, Refusal
from mailserver.admin.output import Output, json_option
from mailserver.admin.progress import Progress
from mailserver.store.checking import repair as mend
from mailserver.store.checking import verify as look
from mailserver.store.findings import Finding
from mailserver.store.stored import names_in
from mailserver.values.account import Account
from mailserver.values.address import Address

COLUMNS = ("address", "kind", "where", "what")

all_option = click.option("--all", "everybody", is_flag=True, help="The mailboxes of all users.")


@click.command(epilog="Example: mailserver mailbox verify --all")
@click.argument("address", type=ADDRESS, required=False)
@all_option
@json_option
@click.pass_obj
def verify(operator: Operator, address: Address | None, everybody: bool, as_json: bool) -> int:
    """Look for what is wrong with the mailbox of ADDRESS: sizes in names, index, quota's count, unique ids,
    what is no message, permissions, broken names. Reads every message, changes nothing, works while the
    server runs. Exit status 65 when something is wrong.
    """
    output = Output(as_json)
    accounts = _accounts(operator, address, everybody)
    rows: list[dict[str, Any]] = []
    with Progress("verifying", _octets(operator, accounts)) as progress:
        for account in accounts:
            with mailboxes_of(operator, account) as mailboxes:
                found = look(mailboxes, effective_format(operator, account), progress.add)
                rows += [_row(account, finding) for finding in found]
    whose = "one mailbox" if len(accounts) == 1 else f"{len(accounts)} mailboxes"
    output.rows(COLUMNS, rows, f"nothing is wrong with {whose}")
    if any(row["mendable"] for row in rows) and not as_json:
        click.echo("mailserver mailbox repair mends what can be mended without losing anything", err=True)
    return os.EX_DATAERR if rows else os.EX_OK


@click.command(epilog="Example: mailserver mailbox repair ada@example.test")
@click.argument("address", type=ADDRESS, required=False)
@all_option
@json_option
@click.pass_obj
def repair(operator: Operator, address: Address | None, everybody: bool, as_json: bool) -> int:
    """Mend what verify finds, as far as nothing is lost by it; clients keep the unique ids that they know.

    Works while the server runs; waits until a POP3 session has ended. Exit status 65 when something is left.
    """
    output = Output(as_json)
    accounts = _accounts(operator, address, everybody)
    rows: list[dict[str, Any]] = []
    failed = False
    with Progress("repairing", _octets(operator, accounts)) as progress:
        for account in accounts:
            with mailboxes_of(operator, account) as mailboxes:
                mended, left = mend(mailboxes, effective_format(operator, account), progress.add)
            rows += [{**_row(account, finding), "mended": True, "why": ""} for finding in mended]
            rows += [{**_row(account, finding), "mended": False, "why": why} for finding, why in left]
            failed = failed or bool(left)
    output.rows((*COLUMNS, "mended", "why"), rows, "there was nothing to mend")
    return os.EX_DATAERR if failed else os.EX_OK


def _accounts(operator: Operator, address: Address | None, everybody: bool) -> list[Account]:
    if (address is None) is not everybody:
        raise click.UsageError("Name an ADDRESS, or --all.", click.get_current_context())
    if address is not None:
        return [account_of(operator, address)]
    with operator.directory() as directory:
        found = list(directory.users())
    if not found:
        raise Refusal(os.EX_NOUSER, "there are no users yet; mailserver user add ada@example.test")
    return found


def _row(account: Account, finding: Finding) -> dict[str, Any]:
    return {
        "address": str(account.address),
        "kind": finding.kind,
        "where": finding.where,
        "what": finding.text,
        "mendable": finding.mend is not None,
    }


def _octets(operator: Operator, accounts: Iterable[Account]) -> int:
    """How much there is to read, for a progress bar."""
    total = 0
    for account in accounts:
        with mailboxes_of(operator, account) as mailboxes, suppress(OSError):
            if effective_format(operator, account) == "mbox":
                total += os.path.getsize(mailboxes.mbox)
            else:
                names = names_in(mailboxes.maildir)
                total += sum(os.lstat(f"{mailboxes.maildir}/{f}/{n}").st_size for f, n in names)
    return total
