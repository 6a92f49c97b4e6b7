"""``mailserver alias``: addresses that stand for others."""

from __future__ import annotations

import click

from mailserver.admin.operator import ADDRESS, Operator, confirm, yes_option
from mailserver.admin.output import Output, json_option
from mailserver.values.address import Address


@click.group(epilog="Example: mailserver alias add sales@example.test ada@example.test")
def alias() -> None:
    """Let an address stand for others, here or elsewhere."""


@alias.command(epilog="Example: mailserver alias add sales@example.test ada@example.test bob@elsewhere.test")
@click.argument("address", type=ADDRESS)
@click.argument("targets", metavar="TARGET...", type=ADDRESS, nargs=-1, required=True)
@json_option
@click.pass_obj
def add(operator: Operator, address: Address, targets: tuple[Address, ...], as_json: bool) -> None:
    """Let mail for ADDRESS go to each TARGET."""
    output = Output(as_json)
    with operator.directory() as directory:
        made = directory.add_alias(address, targets)
    names = [str(target) for target in made.targets]
    output.done(f"{made.address} goes to {', '.join(names)}", address=str(made.address), targets=names)


@alias.command("list", epilog="Example: mailserver alias list --json")
@json_option
@click.pass_obj
def list_(operator: Operator, as_json: bool) -> None:
    """Show every alias and its targets."""
    output = Output(as_json)
    rows = []
    if operator.accounts.exists():
        with operator.directory() as directory:
            rows = [
                {"address": str(a.address), "targets": [str(target) for target in a.targets]}
                for a in directory.aliases()
            ]
    output.rows(("address", "targets"), rows, "There are no aliases yet; mailserver alias add ADDRESS TARGET")


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
