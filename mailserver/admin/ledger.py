"""``mailserver ledger``: does every message that was accepted have its end, or wait?"""

from __future__ import annotations

import os
from typing import Any

import click

from mailserver.admin.operator import Operator, Refusal, become_owner
from mailserver.admin.output import Output, json_option
from mailserver.trace.segments import FOLDER

COLUMNS = ("what", "id", "to", "why")


@click.command(epilog="Example: mailserver ledger")
@json_option
@click.pass_obj
def ledger(operator: Operator, as_json: bool) -> None:
    """Check that every message that was ever accepted was delivered, relayed, returned or removed, or waits.

    It compares the trace with the spool and the Maildirs. Exits with 1 when something is missing, and
    lists it. The server does the same when it starts and once a day; its log has the count.
    """
    output = Output(as_json)
    settings = operator.settings
    from mailserver.assembly.auditing import audit
    from mailserver.spool.schema import SpoolUnusable

    become_owner(settings.state)
    if not (settings.state / FOLDER).exists():
        raise Refusal(os.EX_NOINPUT, f"{settings.state / FOLDER}: there is no trace to check against")
    with operator.directory() as directory:
        try:
            report = audit(settings, directory.resolve)
        except SpoolUnusable as error:
            raise Refusal(os.EX_UNAVAILABLE, str(error)) from error
    rows: list[dict[str, Any]] = [
        {"what": f"missing {one.what}", "id": one.id, "to": one.to, "why": one.why} for one in report.missing
    ]
    rows += [{"what": "unproven", "id": one.id, "to": one.to, "why": one.why} for one in report.unproven]
    rows += [{"what": "twice", "id": id_, "to": to, "why": "ended twice"} for id_, _, to in report.again]
    if as_json:
        output.text("", report.fields())
    else:
        if rows:
            output.rows(COLUMNS, rows, "")
        output.done(report.line)
        if report.gaps:
            gaps = "a gap" if report.gaps == 1 else f"{report.gaps} gaps"
            output.done(f"{gaps} in the trace, {report.lost_records} records known to be lost")
    if report.missing:
        raise Refusal(1, f"{len(report.missing)} missing; `mailserver trace ID` tells what is known")
