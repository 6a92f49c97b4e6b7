"""``mailserver explain``: what would be answered to a message, by which rule and why, without taking it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from mailserver.admin.operator import ADDRESS, AddressType, Operator, Refusal, become_owner
from mailserver.admin.output import Output, json_option
from mailserver.values.address import Address

DEFAULT = b"Subject: a question\r\n\r\nWould this be taken?\r\n"
EXAMPLE = "Example: mailserver explain --from bob@partner.test --to ada@example.test --ip 192.0.2.9"


class _Sender(AddressType):
    """An address, or ``""`` for the null sender."""

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        return Address("", "") if value in ("", "<>") else super().convert(value, param, ctx)


@click.command(epilog=EXAMPLE)
@click.option(
    "--from", "sender", type=_Sender(), required=True, metavar="ADDRESS", help='MAIL FROM; "" for <>.'
)
@click.option(
    "--to", "recipients", type=ADDRESS, required=True, multiple=True, metavar="ADDRESS", help="RCPT TO."
)
@click.option("--ip", default="192.0.2.1", show_default=True, help="The client's address.")
@click.option("--helo", default="client.invalid", show_default=True, help="What the client calls itself.")
@click.option("--user", type=ADDRESS, default=None, metavar="ADDRESS", help="As if this user had logged in.")
@click.argument(
    "message",
    required=False,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="[MESSAGE.EML]",
)
@json_option
@click.pass_obj
def explain(
    operator: Operator,
    sender: Address,
    recipients: tuple[Address, ...],
    ip: str,
    helo: str,
    user: Address | None,
    message: Path | None,
    as_json: bool,
) -> None:
    """Play a message through the receiver and the whole policy; nothing is kept or sent.

    Each command with its reply, each rule with its opinion, and whom the message would go to. It asks
    DNS as the server does, and reads the greylist; counts that the server has in memory are not known
    here. Exits with 1 when something would be refused.
    """
    output = Output(as_json)
    _check_client(ip)
    content = message.read_bytes() if message else DEFAULT
    settings = operator.settings
    from mailserver.admin.playing import play

    become_owner(settings.state)
    told = play(settings, ip, helo, str(sender), [str(one) for one in recipients], content, user)
    output.text("\n".join(_lines(told)), told)
    if told["refused"]:
        raise Refusal(1, f"it would be refused: {told['refused']}")


def _check_client(ip: str) -> None:
    from ipaddress import ip_address

    try:
        ip_address(ip)
    except ValueError:
        raise Refusal(os.EX_USAGE, f"--ip {ip} is no IP address; write for example --ip 192.0.2.9") from None


def _lines(told: dict[str, Any]) -> list[str]:
    lines = []
    for one in told["said"]:
        lines.append(f"{one['command']}")
        lines += [f"    rule      {name}: {opinion}" for name, opinion in one["verdicts"]]
        lines.append(f"    reply     {one['reply']}")
    lines += [f"goes to   <{one['to']}>, {one['where']}" for one in told["recipients"]]
    if told["decided_by"]:
        lines.append(f"decided   {told['decided_by']}")
    return lines
