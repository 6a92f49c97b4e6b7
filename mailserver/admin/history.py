"""``mailserver mailbox history``: who fetched and deleted what by POP3, when and from where."""

from __future__ import annotations

import os
import sqlite3
import time
from typing import Any

import click

from mailserver.admin.operator import ADDRESS, Operator, Refusal
from mailserver.admin.output import Output, json_option
from mailserver.retrieve.history import FILE_NAME, Visit, visits_of
from mailserver.values.address import Address

COLUMNS = ("ended", "client", "tls", "fetched", "deleted", "ending")


@click.command(epilog="Example: mailserver mailbox history ada@example.test --last 20")
@click.argument("address", type=ADDRESS)
@click.option(
    "--last", default=50, type=click.IntRange(1, 100_000), help="So many sessions, the newest first."
)
@json_option
@click.pass_obj
def history(operator: Operator, address: Address, last: int, as_json: bool) -> None:
    """Show the POP3 sessions that fetched or deleted messages of ADDRESS; with --json also which ones."""
    output = Output(as_json)
    account = str(address)
    if operator.accounts.exists():
        with operator.directory() as directory:
            found = directory.secrets(account)
        if found is not None:
            account = str(found[0].address)
    try:
        visits = visits_of(operator.settings.state / FILE_NAME, account, last)
    except sqlite3.Error as error:
        raise Refusal(os.EX_UNAVAILABLE, f"{operator.settings.state / FILE_NAME}: {error}") from error
    rows = [_fields(visit) if as_json else _line(visit) for visit in visits]
    output.rows(COLUMNS, rows, f"Nobody has fetched or deleted mail of {account} by POP3 yet")


def _line(visit: Visit) -> dict[str, Any]:
    failed = f" ({visit.failed} failed)" if visit.failed else ""
    return {
        "ended": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(visit.ended)),
        "client": visit.client,
        "tls": "yes" if visit.tls else "no",
        "fetched": str(visit.fetched_count),
        "deleted": f"{visit.deleted_count}{failed}",
        "ending": visit.ending,
    }


def _fields(visit: Visit) -> dict[str, Any]:
    return {
        "ended": visit.ended,
        "client": visit.client,
        "tls": visit.tls,
        "fetched": visit.fetched_count,
        "fetched_ids": list(visit.fetched),
        "octets": visit.octets,
        "deleted": visit.deleted_count,
        "deleted_ids": list(visit.deleted),
        "failed": visit.failed,
        "ending": visit.ending,
    }
