"""``mailserver lists``: mailing lists and their members."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from mailserver.admin.directory_pages import show_all
from mailserver.admin.operator import ADDRESS, Operator, Refusal, confirm, yes_option
from mailserver.admin.output import Output, Row, json_option
from mailserver.values.address import Address, address_from

if TYPE_CHECKING:
    from mailserver.values.account import MailingList


@click.group(epilog="Example: mailserver lists add news@example.test --owner ada@example.test")
def lists() -> None:
    """Mailing lists: who is a member, and who may write to them."""


@lists.command(epilog="Example: mailserver lists add news@example.test --owner ada@example.test --open")
@click.argument("address", type=ADDRESS)
@click.option(
    "--owner", "owners", type=ADDRESS, multiple=True, required=True, help="Who gets what goes wrong."
)
@click.option(
    "--posters",
    type=click.Choice(["members", "owners", "anybody"]),
    default="members",
    show_default=True,
    help="Who may write to it.",
)
@click.option("--title", default="", help="What people call it.")
@click.option("--open", "is_open", is_flag=True, help="Anybody may subscribe by mail to ADDRESS's -request.")
@json_option
@click.pass_obj
def add(
    operator: Operator,
    address: Address,
    owners: tuple[Address, ...],
    posters: str,
    title: str,
    is_open: bool,
    as_json: bool,
) -> None:
    """Make the mailing list ADDRESS, with addresses -owner, -request and -bounces beside it."""
    output = Output(as_json)
    with operator.directory() as directory:
        made = directory.add_list(address, owners, posters, title, is_open)
    output.done(f"{made.address} added; mailserver lists join {made.address} MEMBER", **_fields(made))


@lists.command("list", epilog="Example: mailserver lists list --json")
@json_option
@click.pass_obj
def list_(operator: Operator, as_json: bool) -> None:
    """Show every mailing list."""
    show_all(
        operator,
        as_json,
        lambda directory: [_fields(one) for one in directory.lists()],
        ("address", "members", "posters", "open", "owners", "title"),
        "There are no mailing lists yet; mailserver lists add ADDRESS --owner OWNER",
        rare=("open", "title"),
    )


@lists.command(epilog="Example: mailserver lists members news@example.test")
@click.argument("address", type=ADDRESS)
@json_option
@click.pass_obj
def members(operator: Operator, address: Address, as_json: bool) -> None:
    """Show the members of ADDRESS, and on how many days in a row mail to them came back."""

    def rows(directory: object) -> list[Row]:
        found = directory.members(address)  # type: ignore[attr-defined]
        return [{"address": str(one.address), "bounces": one.bounces} for one in found]

    show_all(
        operator,
        as_json,
        rows,
        ("address", "bounces"),
        f"{address} has no members yet; mailserver lists join {address} MEMBER",
    )


@lists.command(epilog="Example: mailserver lists join news@example.test bob@elsewhere.test")
@click.argument("address", type=ADDRESS)
@click.argument("whom", metavar="MEMBER...", type=ADDRESS, nargs=-1)
@click.option("--stdin", "from_stdin", is_flag=True, help="Read members from standard input, one a line.")
@json_option
@click.pass_obj
def join(
    operator: Operator, address: Address, whom: tuple[Address, ...], from_stdin: bool, as_json: bool
) -> None:
    """Make each MEMBER a member of ADDRESS."""
    output = Output(as_json)
    if bool(whom) is from_stdin:
        raise click.UsageError("Name at least one MEMBER, or --stdin.", click.get_current_context())
    wanted = whom or _from_stdin()
    with operator.directory() as directory:
        added = directory.add_members(address, wanted)
    output.done(f"{added} joined {address}", address=str(address), joined=added)


@lists.command(epilog="Example: mailserver lists leave news@example.test bob@elsewhere.test")
@click.argument("address", type=ADDRESS)
@click.argument("whom", metavar="MEMBER...", type=ADDRESS, nargs=-1, required=True)
@json_option
@click.pass_obj
def leave(operator: Operator, address: Address, whom: tuple[Address, ...], as_json: bool) -> None:
    """Let each MEMBER be a member of ADDRESS no more."""
    output = Output(as_json)
    with operator.directory() as directory:
        directory.remove_members(address, whom)
    output.done(f"{len(whom)} left {address}", address=str(address), left=[str(one) for one in whom])


@lists.command(epilog="Example: mailserver lists remove news@example.test --yes")
@click.argument("address", type=ADDRESS)
@yes_option
@json_option
@click.pass_obj
def remove(operator: Operator, address: Address, yes: bool, as_json: bool) -> None:
    """Remove the mailing list ADDRESS and forget its members."""
    output = Output(as_json)
    confirm(f"Remove the list {address} and forget its members?", yes)
    with operator.directory() as directory:
        directory.remove_list(address)
    output.done(f"{address} removed", address=str(address))


def _fields(one: MailingList) -> dict[str, object]:
    return {
        "address": str(one.address),
        "members": len(one.members),
        "posters": one.posters,
        "open": one.open,
        "owners": [str(owner) for owner in one.owners],
        "title": one.title,
    }


def _from_stdin() -> tuple[Address, ...]:
    found = []
    for number, line in enumerate(sys.stdin, 1):
        if line.strip():
            try:
                found.append(address_from(line))
            except ValueError as error:
                raise Refusal(os.EX_DATAERR, f"line {number}: {error}; nothing was changed") from None
    return tuple(found)
