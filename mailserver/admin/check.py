"""``mailserver check``: what the world sees of this server, and what mends it."""

from __future__ import annotations

import datetime
from dataclasses import asdict

import click

from mailserver.admin.dns import key_record
from mailserver.admin.operator import Operator, Refusal
from mailserver.admin.output import Output, json_option

COLUMNS = ("state", "what", "found", "remedy")


@click.command(epilog="Example: mailserver check --local")
@click.option("--local", "only_local", is_flag=True, help="Ask nobody outside this machine.")
@json_option
@click.pass_obj
def check(operator: Operator, only_local: bool, as_json: bool) -> None:
    """Check ports, certificate, disk, permissions and clock; and in DNS names, MX, SPF, DMARC, block lists.

    Each finding comes with the record to publish or the command to type. Exits with 1 when something is
    wrong; what nobody answered is "unknown".
    """
    output = Output(as_json)
    settings = operator.settings
    from mailserver.assembly.world import World, local

    found = list(local(settings, datetime.datetime.now(datetime.UTC)))
    if not only_local:
        from mailserver.admin.in_reactor import in_reactor
        from mailserver.admin.progress import Progress

        with Progress("Asking", 2) as progress:
            progress.add(1)
            record = key_record(settings)
            found += in_reactor(lambda reactor: World(settings, reactor, record).findings())
    rows = [asdict(one) for one in found]
    if as_json:
        output.rows((), rows, "")
    else:
        shown = [
            {"state": one.state, "what": one.subject, "found": one.told, "remedy": one.remedy}
            for one in found
        ]
        output.rows(COLUMNS, shown, "")
    if bad := sum(one.state == "wrong" for one in found):
        raise Refusal(1, f"{bad} of {len(found)} are wrong; the last column mends them")
