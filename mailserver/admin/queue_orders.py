"""``mailserver queue retry|release|remove|hold|bounce|reroute``: orders for messages that wait."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import click

from mailserver.admin.noting import note
from mailserver.admin.open_queue import inspection_of
from mailserver.admin.operator import Operator, Refusal, ask_servers, confirm
from mailserver.admin.output import Output
from mailserver.admin.queue_selection import DURATION, selecting, selection_of
from mailserver.spool import orders
from mailserver.spool.inspection import QueuedEntry, QueueInspection
from mailserver.spool.selection import Selection
from mailserver.values.address import Address, address_from
from mailserver.values.envelope import entry_number, queue_id
from mailserver.values.text import printable

MOST_DOMAINS = 100
"""Destinations that are looked up for a retry; for more, everything that is remembered goes."""


@click.command(epilog="Example: mailserver queue retry partner.test")
@click.option("--all", "everything", is_flag=True, help="Try everybody who waits.")
@selecting
def retry(operator: Operator, everything: bool, as_json: bool, yes: bool, **which: Any) -> None:
    """Try again now: messages by ID, one ADDRESS or DOMAIN, what the options say, or --all.

    What the running server remembers of the hosts' failures is forgotten. What is being delivered at
    this moment is left alone. Only naming a message by its ID releases one that is held.
    """
    output = Output(as_json)
    with inspection_of(operator) as inspection:
        selection = selection_of(**_words(inspection, which), everything=everything)
        ask_servers(operator, "forgive", domains=_domains(inspection, selection))
        changed = inspection.change(orders.retry, selection)
        runs = inspection.server_runs
        leased = [n for n in selection.numbers if not changed.recipients and inspection.entry(n)]
    if leased:
        state = "being delivered already" if runs else "tried at the next start"
        output.done(f"{', '.join(map(queue_id, leased))} is {state}", recipients=0, messages=[])
        return
    if not changed.recipients and not everything:
        raise Refusal(os.EX_NOUSER, "nobody waits for that; `mailserver queue list` shows who does")
    count, when = changed.recipients, "now" if runs else "when the server starts"
    output.done(
        f"{count} recipient{'s' * (count != 1)} will be tried {when}",
        recipients=count,
        messages=_ids(changed.messages),
    )


held_option = click.option("--held", is_flag=True, help="Only what is held.")


@click.command(epilog="Example: mailserver queue release --sender ada@example.test")
@click.option("--all", "everything", is_flag=True, help="Release everything that is held.")
@selecting
def release(operator: Operator, everything: bool, as_json: bool, yes: bool, **which: Any) -> None:
    """Let messages go that are held.

    An account whose mail was held because it sent too much may send again.
    """
    output = Output(as_json)
    with inspection_of(operator) as inspection:
        selection = _held(inspection, selection_of(**which, everything=everything), which["sender"])
        reasons = _reasons(inspection, selection)
        changed = inspection.change(orders.release, selection)
        accounts = _end_holds(operator, inspection, which["sender"], reasons)
    if not changed.messages and not accounts:
        raise Refusal(os.EX_NOUSER, "nothing like that is held; `mailserver queue list` shows what is")
    if missing := set(selection.numbers) - changed.messages if which["ids"] else set[int]():
        names = ", ".join(_ids(missing))
        raise Refusal(os.EX_NOUSER, f"{names}: not held; `mailserver queue list` shows what is")
    ids = _ids(changed.messages)
    note(operator, "released", ids)
    output.done(_done(ids, "released", accounts), released=ids, accounts=accounts)


@click.command(epilog="Example: mailserver queue remove 2kq8f3vbx1c --yes")
@click.option("--all", "everything", is_flag=True, help="Remove everything.")
@held_option
@selecting
def remove(operator: Operator, everything: bool, held: bool, as_json: bool, yes: bool, **which: Any) -> None:
    """Remove messages, or with --recipient or --domain some of their recipients. Nobody is told.

    A recipient to whom a message is being delivered at this moment may still get it.
    """
    output = Output(as_json)
    selection = selection_of(**which, everything=everything or (held and not any(which.values())))
    what = ", ".join(which["ids"]) or "everything that this means"
    confirm(f"Remove {what}? The messages are lost, and their senders are not told.", yes)
    with inspection_of(operator) as inspection:
        if held:
            selection = _held(inspection, selection, which["sender"], only=True)
        reasons = _reasons(inspection, selection) if held or which["ids"] or which["sender"] else set()
        nothing = held and not selection.numbers
        changed = orders.Changed() if nothing else inspection.change(orders.remove, selection)
        accounts = _end_holds(operator, inspection, which["sender"], reasons)
    ids = _ids(changed.messages)
    note(operator, "removed", ids, numbers=_numbers(changed) if selection.is_by_recipient else None)
    if missing := set(selection.numbers) - changed.messages:
        done = f" ({', '.join(ids)} removed)" if ids else ""
        names = ", ".join(_ids(missing))
        raise Refusal(
            os.EX_NOUSER, f"{names} is not in the queue; `mailserver queue list` shows what is{done}"
        )
    if not ids and not accounts:
        raise Refusal(os.EX_NOUSER, "no such message waits; `mailserver queue list` shows those that do")
    output.done(_done(ids, "removed", accounts), removed=ids, accounts=accounts)


@click.command(epilog='Example: mailserver queue hold --domain partner.test --reason "they asked" --until 2h')
@click.option("--reason", required=True, help="Why; `queue list` shows it.")
@click.option(
    "--until", "length", type=DURATION, metavar="2h", help="Let them go by themselves after so long."
)
@selecting
def hold(
    operator: Operator, reason: str, length: float | None, as_json: bool, yes: bool, **which: Any
) -> None:
    """Keep messages back until `queue release`, or for a time. What is being delivered is left alone."""
    until = time.time() + length if length else 0.0
    _do(operator, as_json, which, "held", orders.hold(printable(reason), until), reason)


@click.command(epilog='Example: mailserver queue bounce 2kq8f3vbx1c --reason "wrong address" --yes')
@click.option("--reason", required=True, help="Why; the sender reads it.")
@selecting
def bounce(operator: Operator, reason: str, as_json: bool, yes: bool, **which: Any) -> None:
    """Return messages to their senders with a report that gives the reason."""
    confirm("Return the messages to their senders?", yes)
    _do(operator, as_json, which, "returned", orders.bounce(printable(reason)), reason)


@click.command(epilog="Example: mailserver queue reroute --domain partner.test --to smtp://10.0.0.5:25")
@click.option("--to", "url", required=True, metavar="URL", help="The next hop, like smtp://10.0.0.5:25.")
@selecting
def reroute(operator: Operator, url: str, as_json: bool, yes: bool, **which: Any) -> None:
    """Send messages by another next hop, now and at each further attempt."""
    from mailserver.relay.routes import route_from

    try:
        route_from(url)
    except ValueError as error:
        raise click.UsageError(f"{error}.", click.get_current_context()) from error
    _do(operator, as_json, which, "rerouted", orders.reroute(url), url)


def _do(
    operator: Operator, as_json: bool, which: dict[str, Any], done: str, order: orders.Order, why: str
) -> None:
    output = Output(as_json)
    selection = selection_of(**which)
    with inspection_of(operator) as inspection:
        changed = inspection.change(order, selection)
    if not changed.messages:
        raise Refusal(os.EX_NOUSER, "no such message waits; `mailserver queue list` shows those that do")
    ids = _ids(changed.messages)
    note(operator, done, ids, why)
    text = f"{len(ids)} message{'s' * (len(ids) != 1)} {done}"
    if selection.is_by_recipient:
        text = f"{changed.recipients} recipient{'s' * (changed.recipients != 1)} {done}"
    output.done(text, messages=ids, recipients=changed.recipients)


# -- who is meant ----------------------------------------------------------------------------------


def _words(inspection: QueueInspection, which: dict[str, Any]) -> dict[str, Any]:
    """``retry`` also takes an address or a domain. A word that could be an ID and a domain is an ID when
    there is such a message."""
    ids = which["ids"]
    if len(ids) != 1 or which["recipient"] or which["domain"]:
        return which
    try:
        if inspection.entry(entry_number(ids[0])) is not None:
            return which
    except ValueError:
        pass
    if "@" not in ids[0]:
        return {**which, "ids": (), "domain": ids[0]}
    try:
        return {**which, "ids": (), "recipient": address_from(ids[0])}
    except ValueError as error:
        raise click.UsageError(f"{error}.", click.get_current_context()) from error


def _domains(inspection: QueueInspection, selection: Selection) -> list[str] | None:
    """The domains whose hosts are to be tried at once; ``None`` for all."""
    if selection.recipient is not None:
        return [selection.recipient.domain]
    entries = [inspection.entry(number) for number in selection.numbers[:MOST_DOMAINS]]
    domains = {one.waiting.recipient.address.domain for entry in entries if entry for one in entry.recipients}
    return sorted(domains) if domains and len(domains) <= MOST_DOMAINS else None


def _held(
    inspection: QueueInspection, selection: Selection, sender: Address | None, only: bool = False
) -> Selection:
    """With a sender and nothing else, also what is held because of that account, whoever it wrote as;
    ``only``: what is held, by number."""
    from mailserver.admin.holds import held_by_sender

    if sender is not None and sender.local and selection == Selection(sender=sender):
        numbers = tuple(held_by_sender(inspection, sender))
        return Selection(numbers) if numbers else selection
    if only:
        held = tuple(entry.id for entry in inspection.entries() if entry.hold)
        wanted = set(selection.numbers) & set(held) if selection.numbers else held
        return replace(selection, numbers=tuple(wanted))
    return selection


def _reasons(inspection: QueueInspection, selection: Selection) -> set[str]:
    """Why the messages that are meant are held, as far as they are named."""
    entries: Iterable[QueuedEntry | None] = (inspection.entry(number) for number in selection.numbers)
    return {entry.hold for entry in entries if entry is not None and entry.hold}


def _end_holds(
    operator: Operator, inspection: QueueInspection, sender: Address | None, reasons: set[str]
) -> list[str]:
    from mailserver.admin.holds import end_holds

    senders = [] if sender is None else [sender]
    return end_holds(operator.settings.state, inspection, senders, reasons)


def _ids(numbers: Iterable[int]) -> list[str]:
    return [queue_id(number) for number in sorted(numbers)]


def _numbers(changed: orders.Changed) -> dict[str, list[int]]:
    """The numbers of the recipients that are gone, by their messages' ids."""
    found: dict[str, list[int]] = {}
    for entry, number in changed.removed:
        found.setdefault(queue_id(entry), []).append(number)
    return found


def _done(ids: list[str], done: str, accounts: list[str]) -> str:
    shown = ", ".join(ids) if len(ids) <= 20 else f"{len(ids)} messages"
    text = f"{shown or 'nothing'} {done}"
    return f"{text}; {', '.join(accounts)} may send again" if accounts else text
