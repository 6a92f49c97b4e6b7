"""``mailq``: the waiting messages, under the name that everybody types."""

from __future__ import annotations

import click

from mailserver.admin.output import json_option


@click.command(epilog="Example: mailserver mailq")
@json_option
@click.pass_context
def mailq(ctx: click.Context, as_json: bool) -> None:
    """Show every waiting message, as `mailserver queue list` does."""
    from mailserver.admin.queue import list_

    ctx.invoke(list_, as_json=as_json)
