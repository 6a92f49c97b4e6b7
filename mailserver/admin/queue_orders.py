"""``mailserver queue hold|bounce|reroute``: orders for messages that wait, by id or by what they are."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import click

from mailserver.admin.noting import note
from mailserver.admin.open_queue import inspection_of
from mailserver.admin.operator import Operator, Refusal, confirm, yes_option
from mailserver.admin.output import Output, json_option
from mailserver.spool.inspection import QueueInspection
from mailserver.spool.selection import Selection
from mailserver.values.address import Address, address_from
from mailserver.values.envelope import entry_number, queue_id
from mailserver.values.text import printable
from mailserver.values.units import octets_from, seconds_from


class _Whom(click.ParamType[Address]):
    """An address, or ``@example.test`` for everybody there."""

    name = "address"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        if isinstance(value, Address):
            return value
        text = str(value)
        if text.startswith("@") and len(text) > 1:
            return Address("", text[1:])
        try:
            return address_from(text)
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


class _Read(click.ParamType[float]):
    """What a function of ``values.units`` reads."""

    name = "text"

    def __init__(self, read: Callable[[str], float]) -> None:
        self._read = read

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float | int):
            return value
        try:
            return self._read(str(value))
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


DURATION, SIZE, WHOM = _Read(seconds_from), _Read(octets_from), _Whom()


def selecting(command: Callable[..., Any]) -> Callable[..., Any]:
    """The ways to say which messages are meant; what is said must all hold."""
    for option in reversed(
        (
            click.argument("ids", metavar="ID...", nargs=-1),
            click.option("--sender", type=WHOM, metavar="ADDRESS|@DOMAIN", help="From this sender."),
            click.option("--recipient", type=WHOM, metavar="ADDRESS|@DOMAIN", help="To this recipient."),
            click.option("--domain", metavar="DOMAIN", help="To a recipient in this domain."),
            click.option("--older", type=DURATION, metavar="2h", help="In the queue for longer than this."),
            click.option("--larger", type=SIZE, metavar="1MiB", help="Larger than this."),
            yes_option,
            json_option,
            click.pass_obj,
        )
    ):
        command = option(command)
    return command


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
    words = printable(reason)
    _do(operator, as_json, which, "held", lambda queue, number: queue.hold(number, words, until))


@click.command(epilog='Example: mailserver queue bounce 2kq8f3vbx1c --reason "wrong address" --yes')
@click.option("--reason", required=True, help="Why; the sender reads it.")
@selecting
def bounce(operator: Operator, reason: str, as_json: bool, yes: bool, **which: Any) -> None:
    """Return messages to their senders with a report that gives the reason."""
    confirm("Return the messages to their senders?", yes)
    words = printable(reason)
    _do(operator, as_json, which, "returned", lambda queue, number: queue.order(number, "bounce", words))


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
    _do(operator, as_json, which, "rerouted", lambda queue, number: queue.order(number, "route", url))


def _do(
    operator: Operator,
    as_json: bool,
    which: dict[str, Any],
    done: str,
    order: Callable[[QueueInspection, int], int],
) -> None:
    output = Output(as_json)
    selection = _selection(**which)
    with inspection_of(operator) as inspection:
        ids = []
        for number in inspection.selected(selection):
            if order(inspection, number):
                ids.append(queue_id(number))
    if not ids:
        raise Refusal(os.EX_NOUSER, "no such message waits; `mailserver queue list` shows those that do")
    note(operator, done, ids)
    output.done(f"{len(ids)} message{'s' * (len(ids) != 1)} {done}", messages=ids)


def _selection(
    ids: tuple[str, ...],
    sender: Address | None,
    recipient: Address | None,
    domain: str | None,
    older: float | None,
    larger: float | None,
) -> Selection:
    try:
        numbers = tuple(entry_number(id_) for id_ in ids)
    except ValueError as error:
        raise click.UsageError(f"{error}.", click.get_current_context()) from error
    if domain is not None and recipient is not None:
        raise click.UsageError("Give --recipient or --domain.", click.get_current_context())
    if not (numbers or sender or recipient or domain or older or larger):
        raise click.UsageError("Give IDs, or say which messages are meant.", click.get_current_context())
    return Selection(
        numbers,
        sender,
        Address("", domain) if domain else recipient,
        time.time() - older if older else 0.0,
        int(larger or 0),
    )
