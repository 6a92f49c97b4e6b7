"""``mailserver route``: the way of mail to an address, stage by stage, without sending any."""

from __future__ import annotations

import os
from typing import Any

import click

from mailserver.admin.operator import ADDRESS, Operator, Refusal, ask_server, ask_servers
from mailserver.admin.output import Output, json_option
from mailserver.values.address import Address


@click.command(epilog="Example: mailserver route ada@partner.test")
@click.argument("address", type=ADDRESS)
@click.option("--from", "sender", type=ADDRESS, default=None, metavar="ADDRESS", help="Ask as this sender.")
@json_option
@click.pass_obj
def route(operator: Operator, address: Address, sender: Address | None, as_json: bool) -> None:
    """Walk the way of mail to ADDRESS: DNS, policy, connection, TLS, MAIL and RCPT. Nothing is sent.

    The running server does it, with its own memory and policies; the next server sees a transaction that
    ends after RCPT.
    """
    output = Output(as_json)
    stages = ask_server(operator, "route", address=str(address), sender=str(sender or ""))
    stages[:0] = _remembered(ask_servers(operator, "why", domain=address.domain, sender=str(sender or "")))
    output.text("\n".join(map(_line, stages)), stages)
    if not stages or not stages[-1]["ok"]:
        raise Refusal(os.EX_UNAVAILABLE, f"mail to {address} would not be taken now")


def _remembered(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the workers remember that would keep mail back now: the walk does not ask them."""
    told: dict[str, None] = {}
    for one in answers:
        state = one.get("destination") or {}
        if state.get("dead"):
            told[f"left alone for {state['probe_in']:.0f} s more: {state['dead']}"] = None
        told.update(
            {f"{host['host']}: {host['memory']}": None for host in one.get("hosts", ()) if host["memory"]}
        )
    return [{"stage": "memory", "told": text, "seconds": 0.0, "ok": True} for text in told]


def _line(stage: dict[str, Any]) -> str:
    mark = "ok" if stage["ok"] else "NO"
    return f"{stage['seconds']:8.3f} s  {mark}  {stage['stage']:14s}  {stage['told']}"
