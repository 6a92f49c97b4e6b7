"""``mailserver alias``: addresses that stand for others."""

from __future__ import annotations

import time

import click

from mailserver.admin.directory_pages import moment_text, show_all, targets_text
from mailserver.admin.moments import MOMENT
from mailserver.admin.operator import ADDRESS, AddressType, Operator, confirm, yes_option
from mailserver.admin.output import Output, json_option
from mailserver.values.address import Address
from mailserver.values.deliveries import as_target, checked_delivery, is_delivery


class TargetType(AddressType):
    """An address, or a way to deliver."""

    name = "target"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        text = str(value)
        if isinstance(value, Address) or not is_delivery(text):
            return super().convert(value, param, ctx)
        try:
            return as_target(checked_delivery(text))
        except ValueError as error:
            self.fail(f"{error}.", param, ctx)


TARGET = TargetType()


@click.group(epilog="Example: mailserver alias add sales@example.test ada@example.test")
def alias() -> None:
    """Let an address stand for others, here or elsewhere."""


@alias.command(epilog="Example: mailserver alias add sales@example.test ada@example.test bob@elsewhere.test")
@click.argument("address", type=ADDRESS)
@click.argument("targets", metavar="TARGET...", type=TARGET, nargs=-1, required=True)
@click.option("--until", type=MOMENT, help="When it ends: a length of time (7d, 12h) or a date (2026-12-31).")
@click.option("--owner", type=ADDRESS, help="The user whose alias it is; answers at ADDRESS's -owner too.")
@json_option
@click.pass_obj
def add(
    operator: Operator,
    address: Address,
    targets: tuple[Address, ...],
    until: float | None,
    owner: Address | None,
    as_json: bool,
) -> None:
    """Let mail for ADDRESS go to each TARGET: an address, or '|/path/of/command arguments', /path/of/file,
    :discard:, lmtp:unix:/path, agent:NAME."""
    output = Output(as_json)
    with operator.directory() as directory:
        made = directory.add_alias(address, targets, until or 0.0, owner)
    names = targets_text(made.targets)
    end = {"until": int(until)} if until else {}
    words = f", until {moment_text(until)}" if until else ""
    output.done(
        f"{made.address} goes to {', '.join(names)}{words}", address=str(made.address), targets=names, **end
    )


@alias.command("list", epilog="Example: mailserver alias list --json")
@json_option
@click.pass_obj
def list_(operator: Operator, as_json: bool) -> None:
    """Show every alias and its targets."""
    now = time.time()
    show_all(
        operator,
        as_json,
        lambda directory: [
            {
                "address": str(facts.address),
                "targets": targets_text(facts.targets),
                **({"until": moment_text(facts.until)} if facts.until else {}),
                **({"owner": facts.owner} if facts.owner else {}),
            }
            for facts in directory.alias_facts()
            if not facts.until or facts.until > now
        ],
        ("address", "targets", "until", "owner"),
        "There are no aliases yet; mailserver alias add ADDRESS TARGET",
        rare=("until", "owner"),
    )


@alias.command(epilog="Example: mailserver alias remove sales@example.test --yes")
@click.argument("address", type=ADDRESS)
@yes_option
@json_option
@click.pass_obj
def remove(operator: Operator, address: Address, yes: bool, as_json: bool) -> None:
    """Remove the alias ADDRESS; its targets stay."""
    output = Output(as_json)
    confirm(f"Remove the alias {address}? Mail for it will be refused.", yes)
    with operator.directory() as directory:
        directory.remove_alias(address)
    output.done(f"{address} removed", address=str(address))
