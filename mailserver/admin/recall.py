"""``mailserver recall``: takes back a message before it leaves."""

from __future__ import annotations

import os
import time

import click

from mailserver.admin.noting import note
from mailserver.admin.open_queue import inspection_of
from mailserver.admin.operator import Operator, Refusal
from mailserver.admin.output import Output, json_option
from mailserver.spool.inspection import QueueInspection
from mailserver.values.envelope import entry_number, queue_id


@click.command(epilog="Example: mailserver recall last")
@click.argument("id_", metavar="ID|last")
@json_option
@click.pass_obj
def recall(operator: Operator, id_: str, as_json: bool) -> None:
    """Take a submitted message back, by its queue id or the last one, while submission.hold keeps it."""
    output = Output(as_json)
    with inspection_of(operator) as inspection:
        number = _last(inspection) if id_ == "last" else _number(id_)
        entry = inspection.entry(number)
        if entry is None:
            raise Refusal(os.EX_NOUSER, f"{queue_id(number)} does not wait any more; it cannot be taken back")
        if not inspection.recall(number, time.time()):
            raise Refusal(
                os.EX_NOUSER,
                f"{queue_id(number)} was tried already or never held back and cannot be taken back; "
                f"`mailserver queue remove {queue_id(number)}` keeps it from those who have not got it",
            )
    note(operator, "removed", [entry.queue_id], "taken back")
    output.done(
        f"{entry.queue_id} from <{entry.envelope.reverse_path}> taken back; nobody gets it",
        id=entry.queue_id,
        sender=str(entry.envelope.reverse_path),
    )


def _last(inspection: QueueInspection) -> int:
    now = time.time()
    waiting = [entry.id for entry in inspection.entries() if entry.envelope.release_at > now]
    if not waiting:
        raise Refusal(
            os.EX_NOUSER, "no message waits for its release; `mailserver queue list` shows the others"
        )
    return max(waiting)


def _number(id_: str) -> int:
    try:
        return entry_number(id_)
    except ValueError as error:
        raise click.UsageError(f"{error}.", click.get_current_context()) from error
