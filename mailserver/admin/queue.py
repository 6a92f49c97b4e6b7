"""``mailserver queue``: the messages that we answer for and that are not finished."""

from __future__ import annotations

import datetime
import os
import sys
import time
from typing import Any

import click

from mailserver.admin.open_queue import inspection_of
from mailserver.admin.operator import (
    Operator,
    Refusal,
    ask_servers,
)
from mailserver.admin.output import Output, json_option
from mailserver.admin.tried import attempt_lines, forget_on_disk, merged, why_page
from mailserver.spool.inspection import QueuedEntry, QueuedRecipient
from mailserver.spool.schema import NEVER
from mailserver.values.content import Content
from mailserver.values.envelope import entry_number
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


@queue.command(epilog="Example: mailserver queue why partner.test")
@click.argument("domain", metavar="DOMAIN")
@json_option
@click.pass_obj
def why(operator: Operator, domain: str, as_json: bool) -> None:
    """Tell why mail for a domain waits: its hosts, their window, memory and policy, and the last dialogue.

    All workers of the running server are asked; what waits is counted while it is stopped, too.
    """
    output = Output(as_json)
    with inspection_of(operator) as inspection:
        waiting = inspection.reasons(domain)
    told = merged(domain, ask_servers(operator, "why", domain=domain), waiting)
    output.text(why_page(told), told)


@queue.command(epilog="Example: mailserver queue forget partner.test")
@click.argument("domain", metavar="DOMAIN|HOST")
@json_option
@click.pass_obj
def forget(operator: Operator, domain: str, as_json: bool) -> None:
    """Forget that the hosts of a domain, or one host, did TLS before, and that they failed.

    For a host that has given TLS up for good, where relay.lost_tls warns of it or delays its mail.
    """
    output = Output(as_json)
    answers = ask_servers(operator, "forget", domain=domain)
    hosts = sorted({host for answer in answers for host in answer})
    if not answers:
        hosts = forget_on_disk(operator.settings.state, domain)
    text = f"{', '.join(hosts)}: TLS is not expected any more" if hosts else "nothing was known of its TLS"
    output.done(text, hosts=hosts)


def _add_orders() -> None:
    from mailserver.admin.queue_orders import bounce, hold, release, remove, reroute, retry

    for command in (retry, release, remove, hold, bounce, reroute):
        queue.add_command(command)


# -- finding ---------------------------------------------------------------------------------------


def _number(id_: str) -> int:
    try:
        return entry_number(id_)
    except ValueError as error:
        raise click.UsageError(f"{error}.", click.get_current_context()) from error


def _not_there(id_: str) -> Refusal:
    return Refusal(os.EX_NOUSER, f"{id_} is not in the queue; `mailserver queue list` shows what is")


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
        "hold": _hold(entry),
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
        "hold": waiting.hold,
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
        "reason": _hold(entry) or _reason(entry, now),
    }


def _hold(entry: QueuedEntry) -> str:
    """Why a message is held: as a whole, or each of its recipients."""
    holds = {one.waiting.hold for one in entry.recipients}
    return entry.hold or (holds.pop() if len(holds) == 1 else "")


def _reason(entry: QueuedEntry, now: float) -> str:
    release_at = entry.envelope.release_at
    # `queue retry ID` lets it go earlier.
    if release_at > now and all((r.next_attempt or 0) >= release_at for r in entry.recipients):
        return f"not before {_moment(release_at)}"
    told = (r.waiting.hold or r.waiting.reason for r in entry.recipients)
    return next((words for words in told if words), "")


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
        held = f": {recipient['hold']}" if recipient["hold"] else ""
        lines.append(f"          {recipient['state']}{held}{f', next attempt {next_}' if next_ else ''}")
        if recipient["attempts"]:
            tried = "attempt" if recipient["attempts"] == 1 else "attempts"
            lines.append(f"          after {recipient['attempts']} {tried}: {recipient['reason']}")
    if (hidden := fields["recipient_count"] - len(fields["recipients"])) > 0:
        lines.append(f"          and {hidden} more")
    for attempt in fields["tried"]:
        lines += ["", *attempt_lines(attempt)]
    return "\n".join([*lines, "", fields["header"].expandtabs()])


def _known_as(recipient: dict[str, Any]) -> str:
    original = recipient["original"]
    return f", sent to <{original}>" if original != recipient["address"] else ""


_add_orders()
