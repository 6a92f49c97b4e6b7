"""The ways to say which waiting messages are meant, the same for every order of ``mailserver queue``."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import click

from mailserver.admin.operator import yes_option
from mailserver.admin.output import json_option
from mailserver.spool.selection import Selection
from mailserver.values.address import Address, address_from
from mailserver.values.envelope import entry_number
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
    """Options that say which messages are meant; what is said must all hold. With --recipient or --domain an
    order is for those recipients, and not for the others of their messages."""
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


def selection_of(
    ids: tuple[str, ...],
    sender: Address | None,
    recipient: Address | None,
    domain: str | None,
    older: float | None,
    larger: float | None,
    everything: bool = False,
) -> Selection:
    """What was said, as a selection.

    Raises:
        click.UsageError: it is nothing (and not ``everything``), or contradicts itself.
    """
    try:
        numbers = tuple(entry_number(id_) for id_ in ids)
    except ValueError as error:
        raise click.UsageError(f"{error}.", click.get_current_context()) from error
    if domain is not None and recipient is not None:
        raise click.UsageError("Give --recipient or --domain.", click.get_current_context())
    said = bool(numbers or sender or recipient or domain or older or larger)
    if everything and said:
        raise click.UsageError("Give --all, or say which messages are meant.", click.get_current_context())
    if not (said or everything):
        raise click.UsageError("Give IDs, or say which messages are meant.", click.get_current_context())
    return Selection(
        numbers,
        sender,
        Address("", domain) if domain else recipient,
        time.time() - older if older else 0.0,
        int(larger or 0),
    )
