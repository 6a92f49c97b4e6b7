"""``mailserver dns``: the zone file lines to publish."""

from __future__ import annotations

import click

from mailserver.admin.operator import Operator, become_owner
from mailserver.admin.output import Output, json_option
from mailserver.config import Settings


def key_record(settings: Settings) -> str:
    """What DNS must have of the key that signs reports; ``""`` where there is none that we may read."""
    from mailserver.assembly.world import report_key

    become_owner(settings.state)
    key = report_key(settings)
    try:
        return key.record() if key is not None else ""
    except OSError as error:
        click.echo(f"mailserver: the key of TLS reports cannot be shown: {error}", err=True)
        return ""


@click.command(epilog="Example: mailserver dns --address 192.0.2.25")
@click.option(
    "--address",
    "addresses",
    multiple=True,
    metavar="IP",
    help="An address of the host; else what DNS says of it now.",
)
@json_option
@click.pass_obj
def dns(operator: Operator, addresses: tuple[str, ...], as_json: bool) -> None:
    """Print the DNS records that this server needs, as lines of a zone file."""
    output = Output(as_json)
    settings = operator.settings
    from ipaddress import ip_address

    from mailserver.assembly.world import World, zone

    for one in addresses:
        try:
            ip_address(one)
        except ValueError:
            raise click.UsageError(f"{one!r} is no IP address.", click.get_current_context()) from None
    given = list(addresses)
    if not given:
        from mailserver.admin.in_reactor import in_reactor

        given = in_reactor(lambda reactor: World(settings, reactor).addresses())
    lines = zone(settings, given, key_record(settings))
    text = "\n\n".join("\n".join([f"; {name}", *records]) for name, records in lines.items())
    if not given:
        text += f"\n\n; {settings.hostname} has no address in DNS yet: mailserver dns --address …"
    output.text(text, lines)
