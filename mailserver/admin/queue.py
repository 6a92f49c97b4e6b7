"""``mailserver queue``: the messages that we answer for and that are not finished."""

from __future__ import annotations

import datetime
import os
import sys
import time
from collections.abc import Iterable
from typing import Any

import click

from mailserver.admin.noting import note
from mailserver.admin.open_queue import inspection_of
from mailserver.admin.operator import (
    ADDRESS,
    Operator,
    Refusal,
    ask_server,
    confirm,
    yes_option,
)
from mailserver.admin.output import Output, json_option
from mailserver.admin.tried import attempt_lines, why_page
from mailserver.spool.inspection import QueuedEntry, QueuedRecipient, QueueInspection
from mailserver.spool.schema import NEVER
from mailserver.values.address import Address, address_from
from mailserver.values.content import Content
from mailserver.values.envelope import entry_number, queue_id
from mailserver.values.units import duration_text, octets_text

HEADER_SHOWN = 32 * 1024
"""Octets of a message's header that ``queue show`` prints at most."""


@click.group(epilog="Example: mailserver queue list")
def queue() -> None:
    """Show the waiting messages; try them again, or remove them."""


@queue.command("list", epilog="Example: mailserver queue list --json")
@json_option
@click.pass_obj
def list_(operator: Operator, as_json: bool) -> None:
    """Show every waiting message, oldest first."""
    output = Output(as_json)
    now = time.time()
    with inspection_of(operator) as inspection:
        runs = inspection.server_runs
        shown = _fields if as_json else _line
        rows = [shown(entry, runs, now) for entry in inspection.entries()]
    output.rows(("id", "age", "size", "from", "to", "next", "reason"), rows, "The queue is empty.")


@queue.command(epilog="Example: mailserver queue show 2kq8f3vbx1c --json")
@click.argument("id_", metavar="ID")
@click.option("--content", is_flag=True, help="Write the message itself, octet for octet, and nothing else.")
@json_option
@click.pass_obj
def show(operator: Operator, id_: str, content: bool, as_json: bool) -> None:
    """Show one message: its envelope, each recipient, and its header."""
    output = Output(as_json)
    number = _number(id_)
    with inspection_of(operator) as inspection:
        entry = inspection.entry(number)
        if entry is None:
            raise _not_there(id_)
        if content:
            for chunk in entry.content.chunks():
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
            return
        fields = _fields(entry, inspection.server_runs, time.time())
        fields["tried"] = inspection.attempts(number)
        fields["header"] = _header(entry.content)
    output.text(_page(fields), fields)


@queue.command(epilog="Example: mailserver queue retry example.test")
@click.argument("what", metavar="ID|ADDRESS|DOMAIN", required=False)
@click.option("--all", "everything", is_flag=True, help="Try everybody who waits.")
@json_option
@click.pass_obj
def retry(operator: Operator, what: str | None, everything: bool, as_json: bool) -> None:
    """Try again now: one message, a recipient, a domain, or --all.

    What is being delivered at this moment is left alone. Only naming a message by its ID releases one
    that is held.
    """
    output = Output(as_json)
    if (what is None) is not everything:
        raise click.UsageError("Give an ID, an address or a domain, or --all.", click.get_current_context())
    with inspection_of(operator) as inspection:
        count = _retried(inspection, what)
        runs = inspection.server_runs
        if not count and what is not None and _is_there(inspection, what):
            output.done(
                f"{what} is {'being delivered already' if runs else 'tried at the next start'}", recipients=0
            )
            return
    if not count and what is not None:
        raise Refusal(os.EX_NOUSER, f"nobody waits for {what}; `mailserver queue list` shows who does")
    when = "now" if runs else "when the server starts"
    output.done(f"{count} recipient{'s' * (count != 1)} will be tried {when}", recipients=count)


@queue.command(epilog="Example: mailserver queue why partner.test")
@click.argument("domain", metavar="DOMAIN")
@json_option
@click.pass_obj
def why(operator: Operator, domain: str, as_json: bool) -> None:
    """Tell why mail for a domain waits: its hosts, their window, memory and policy, and the last dialogue."""
    output = Output(as_json)
    told = ask_server(operator, "why", domain=domain)
    output.text(why_page(told), told)


sender_option = click.option(
    "--sender", type=ADDRESS, default=None, metavar="ADDRESS", help="All that is held of this sender."
)


@queue.command("release", epilog="Example: mailserver queue release --sender ada@example.test")
@click.argument("ids", metavar="ID...", nargs=-1)
@sender_option
@json_option
@click.pass_obj
def release_(operator: Operator, ids: tuple[str, ...], sender: Address | None, as_json: bool) -> None:
    """Let messages go that are held, by ID or all of a sender's.

    An account whose mail was held because it sent too much may send again.
    """
    output = Output(as_json)
    _one_of(ids, sender)
    with inspection_of(operator) as inspection:
        numbers = {id_: _number(id_) for id_ in ids} or _held(inspection, sender)
        entries = {id_: inspection.entry(number) for id_, number in numbers.items()}
        if missing := [id_ for id_, entry in entries.items() if entry is None or not entry.hold]:
            raise Refusal(
                os.EX_NOUSER, f"{', '.join(missing)}: not held; `mailserver queue list` shows what is"
            )
        for number in numbers.values():
            inspection.retry_entry(number)
        accounts = _end_holds(operator, inspection, sender, entries.values())
    note(operator, "released", numbers)
    output.done(_done(numbers, "released", accounts), released=list(numbers), accounts=accounts)


@queue.command(epilog="Example: mailserver queue remove 2kq8f3vbx1c --yes")
@click.argument("ids", metavar="ID...", nargs=-1)
@sender_option
@yes_option
@json_option
@click.pass_obj
def remove(
    operator: Operator, ids: tuple[str, ...], sender: Address | None, yes: bool, as_json: bool
) -> None:
    """Remove messages with all their recipients, by ID or all that is held of a sender. Nobody is told.

    A recipient to whom a message is being delivered at this moment may still get it.
    """
    output = Output(as_json)
    _one_of(ids, sender)
    numbers = {id_: _number(id_) for id_ in ids}
    what = ", ".join(numbers) or f"everything that is held of {sender}"
    confirm(f"Remove {what}? The messages are lost, and their senders are not told.", yes)
    with inspection_of(operator) as inspection:
        numbers = numbers or _held(inspection, sender)
        entries = [inspection.entry(number) for number in numbers.values()]
        removed = [id_ for id_, number in numbers.items() if inspection.remove(number)]
        accounts = _end_holds(operator, inspection, sender, entries)
    note(operator, "removed", removed)
    if sender is not None:
        output.done(_done(removed, "removed", accounts), removed=removed, accounts=accounts)
        return
    if missing := [id_ for id_ in numbers if id_ not in removed]:
        done = f" ({', '.join(removed)} removed)" if removed else ""
        raise Refusal(os.EX_NOUSER, f"{_not_there(', '.join(missing))}{done}")
    output.done(f"{', '.join(removed)} removed", removed=removed)


def _add_orders() -> None:
    from mailserver.admin.queue_orders import bounce, hold, reroute

    for command in (hold, bounce, reroute):
        queue.add_command(command)


# -- finding ---------------------------------------------------------------------------------------


def _one_of(ids: tuple[str, ...], sender: Address | None) -> None:
    if bool(ids) is (sender is not None):
        raise click.UsageError("Give IDs, or --sender.", click.get_current_context())


def _held(inspection: QueueInspection, sender: Address | None) -> dict[str, int]:
    from mailserver.admin.holds import held_by_sender

    assert sender is not None
    return {queue_id(number): number for number in held_by_sender(inspection, sender)}


def _end_holds(
    operator: Operator,
    inspection: QueueInspection,
    sender: Address | None,
    entries: Iterable[QueuedEntry | None],
) -> list[str]:
    from mailserver.admin.holds import end_holds

    senders = [] if sender is None else [sender]
    reasons = {entry.hold for entry in entries if entry is not None and entry.hold}
    return end_holds(operator.settings.state, inspection, senders, reasons)


def _done(ids: Iterable[str], done: str, accounts: list[str]) -> str:
    text = f"{', '.join(ids) or 'nothing'} {done}"
    return f"{text}; {', '.join(accounts)} may send again" if accounts else text


def _number(id_: str) -> int:
    try:
        return entry_number(id_)
    except ValueError as error:
        raise click.UsageError(f"{error}.", click.get_current_context()) from error


def _not_there(id_: str) -> Refusal:
    return Refusal(os.EX_NOUSER, f"{id_} is not in the queue; `mailserver queue list` shows what is")


def _retried(inspection: QueueInspection, what: str | None) -> int:
    """How many recipients are due now. A word that could be an ID and a domain is an ID when there is
    such a message."""
    if what is None:
        return inspection.retry_all()
    if "@" in what:
        try:
            return inspection.retry_recipient(address_from(what))
        except ValueError as error:
            raise click.UsageError(f"{error}.", click.get_current_context()) from error
    if _is_there(inspection, what):
        return inspection.retry_entry(entry_number(what))
    return inspection.retry_domain(what)


def _is_there(inspection: QueueInspection, what: str) -> bool:
    try:
        return inspection.entry(entry_number(what)) is not None
    except ValueError:
        return False


# -- showing ---------------------------------------------------------------------------------------


def _moment(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")


def _is_held(recipient: QueuedRecipient) -> bool:
    """Held, or set aside because the server could not read it."""
    return recipient.held or (recipient.next_attempt is not None and recipient.next_attempt >= NEVER)


def _state(recipient: QueuedRecipient, server_runs: bool) -> str:
    if _is_held(recipient):
        return "held"
    if recipient.next_attempt is None:
        return "being delivered" if server_runs else "at the next start"
    return "waiting"


def _fields(entry: QueuedEntry, server_runs: bool, now: float) -> dict[str, Any]:
    """Everything about an entry, for programs."""
    return {
        "id": entry.queue_id,
        "arrived": _moment(entry.arrived),
        "size": entry.size,
        "from": str(entry.envelope.reverse_path),
        "body": entry.envelope.body,
        "smtputf8": entry.envelope.smtputf8,
        "hold": entry.hold,
        "release_at": _moment(release) if (release := entry.envelope.release_at) else None,
        "recipient_count": entry.recipient_count,
        "recipients": [_recipient_fields(recipient, server_runs, now) for recipient in entry.recipients],
    }


def _recipient_fields(recipient: QueuedRecipient, server_runs: bool, now: float) -> dict[str, Any]:
    waiting = recipient.waiting
    waits = recipient.next_attempt is not None and not _is_held(recipient)
    return {
        "address": str(waiting.recipient.address),
        "original": str(waiting.recipient.original),
        "state": _state(recipient, server_runs),
        # What is due already is tried as soon as there is room for it.
        "next_attempt": _moment(max(recipient.next_attempt or 0, now)) if waits else None,
        "attempts": waiting.attempts,
        "reason": waiting.reason,
    }


def _line(entry: QueuedEntry, server_runs: bool, now: float) -> dict[str, Any]:
    """One line of the table."""
    first = entry.recipients[0] if entry.recipients else None
    more = entry.recipient_count - 1
    return {
        "id": entry.queue_id,
        "age": _length(now - entry.arrived),
        "size": octets_text(entry.size),
        "from": f"<{entry.envelope.reverse_path}>",
        "to": f"<{first.waiting.recipient.address}>{f' and {more} more' * (more > 0)}" if first else "",
        "next": _soonest(entry, server_runs, now),
        "reason": entry.hold or _reason(entry, now),
    }


def _reason(entry: QueuedEntry, now: float) -> str:
    if entry.envelope.release_at > now:
        return f"not before {_moment(entry.envelope.release_at)}"
    return next((r.waiting.reason for r in entry.recipients if r.waiting.reason), "")


def _soonest(entry: QueuedEntry, server_runs: bool, now: float) -> str:
    states = {_state(recipient, server_runs) for recipient in entry.recipients}
    for state in ("being delivered", "at the next start"):
        if state in states:
            return state
    times = [r.next_attempt for r in entry.recipients if r.next_attempt is not None and not _is_held(r)]
    if not times:
        return "held"
    return f"in {_length(min(times) - now)}" if min(times) > now else "now"


def _length(seconds: float) -> str:
    """To the second below an hour, to the minute below a day, to the hour above."""
    step = 1 if seconds < 3600 else 60 if seconds < 86400 else 3600
    return duration_text(max(0, seconds) // step * step)


def _header(content: Content) -> str:
    """The header, for people's eyes: octets that are not UTF-8 are replaced."""
    octets = b""
    try:
        for chunk in content.chunks():
            octets += chunk
            if b"\r\n\r\n" in octets or len(octets) > HEADER_SHOWN:
                break
    except OSError as error:
        return f"(cannot be read: {error.strerror or error})"
    return octets.partition(b"\r\n\r\n")[0][:HEADER_SHOWN].decode(errors="replace").replace("\r\n", "\n")


def _page(fields: dict[str, Any]) -> str:
    """One message for people."""
    lines = [
        f"id        {fields['id']}",
        f"arrived   {fields['arrived']}",
        f"size      {octets_text(fields['size'])}",
        f"from      <{fields['from']}>",
    ]
    lines += [f"held      {fields['hold']}"] if fields["hold"] else []
    lines += [f"release   not before {fields['release_at']}"] if fields["release_at"] else []
    for recipient in fields["recipients"]:
        lines.append(f"to        <{recipient['address']}>{_known_as(recipient)}")
        next_ = recipient["next_attempt"]
        lines.append(f"          {recipient['state']}{f', next attempt {next_}' if next_ else ''}")
        if recipient["attempts"]:
            lines.append(f"          after {recipient['attempts']} attempts: {recipient['reason']}")
    if (hidden := fields["recipient_count"] - len(fields["recipients"])) > 0:
        lines.append(f"          and {hidden} more")
    for attempt in fields["tried"]:
        lines += ["", *attempt_lines(attempt)]
    return "\n".join([*lines, "", fields["header"].expandtabs()])


def _known_as(recipient: dict[str, Any]) -> str:
    original = recipient["original"]
    return f", sent to <{original}>" if original != recipient["address"] else ""


_add_orders()
