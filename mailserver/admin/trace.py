"""``mailserver trace``: the whole life of a message, or why something was refused."""

from __future__ import annotations

import os
from typing import Any

import click

from mailserver.admin.mail_files import whereabouts
from mailserver.admin.operator import Operator, Refusal, become_owner
from mailserver.admin.output import Output, json_option
from mailserver.admin.progress import Progress
from mailserver.admin.trace_page import page
from mailserver.trace import reading
from mailserver.trace.segments import FOLDER


@click.command(epilog="Example: mailserver trace last")
@click.argument("what", metavar="WHAT")
@click.option(
    "--most", default=5, show_default=True, type=click.IntRange(1, 1000), help="So many messages, the newest."
)
@json_option
@click.pass_obj
def trace(operator: Operator, what: str, most: int, as_json: bool) -> None:
    """Tell what became of a message. WHAT is a queue id, a message-id, an address (of a sender, a recipient
    or an alias), the short id at the end of a refusal, or "last".

    Connection, TLS and log-in, the rules, the commit, the expansion, each attempt with what the other
    server said, the mailbox file, and who fetched and deleted it by POP3; also what was made from it.
    """
    output = Output(as_json)
    settings = operator.settings
    folder = settings.state / FOLDER
    become_owner(settings.state)
    if not folder.exists():
        off = "" if settings.trace.keep else '; trace.keep is "" in the configuration'
        raise Refusal(os.EX_NOINPUT, f"{folder}: there is no trace yet{off}")
    with Progress("Reading the trace", 2 * reading.total_octets(folder)) as progress:
        ids = reading.find(folder, what, most, progress.add)
        found = reading.lives(folder, ids, progress.add)
    if not found:
        raise Refusal(
            os.EX_NOUSER,
            f"nothing is known of {what}; expected a queue id, message-id, address, the id in a refusal, "
            "or last",
        )
    told: list[dict[str, Any]] = [
        {
            "id": life.id,
            "parent": life.parent,
            "rules": life.rules,
            "records": life.records,
            "files": whereabouts(operator, life),
        }
        for life in found.values()
    ]
    output.text("\n\n".join(page(one) for one in told), told)
