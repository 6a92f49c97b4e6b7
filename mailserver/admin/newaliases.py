"""``newaliases``: nothing has to be rebuilt here; scripts that call it go on."""

from __future__ import annotations

import click

from mailserver.admin.output import Output, json_option


@click.command(epilog="Example: mailserver newaliases")
@json_option
def newaliases(as_json: bool) -> None:
    """Do nothing: aliases are in force the moment they are changed. For scripts that call it."""
    Output(as_json).done("aliases are in force as they are changed; nothing to rebuild", rebuilt=0)
