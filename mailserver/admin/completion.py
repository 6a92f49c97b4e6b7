"""``mailserver completion``: the lines that let a shell complete this command."""

from __future__ import annotations

import click

PROGRAM = "mailserver"
VARIABLE = "_MAILSERVER_COMPLETE"


@click.command(epilog="Example: mailserver completion bash")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what lets SHELL complete commands, options and files; put it into the shell's startup file.

    bash and zsh: eval "$(mailserver completion bash)". fish: mailserver completion fish | source.
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(ctx.find_root().command, {}, PROGRAM, VARIABLE).source())
