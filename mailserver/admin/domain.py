"""``mailserver domain``: domains of this server, and what holds in each."""

from __future__ import annotations

import os

import click

from mailserver.admin.operator import Operator, Refusal, confirm, yes_option
from mailserver.admin.output import Output, json_option
from mailserver.values.address import domain_key


@click.group(epilog="Example: mailserver domain add example.org")
def domain() -> None:
    """Take mail for more domains than the configuration names; catch-alls and other stores."""


@domain.command(epilog="Example: mailserver domain add example.org")
@click.argument("name")
@json_option
@click.pass_obj
def add(operator: Operator, name: str, as_json: bool) -> None:
    """Take mail for the domain NAME. In force at once; the certificate's names are those of the
    configuration."""
    output = Output(as_json)
    from mailserver.config.kinds import DOMAIN, Wrong

    try:
        DOMAIN(name)
    except Wrong as wrong:
        raise Refusal(os.EX_DATAERR, f"{name!r}: {wrong.sentences[0][1]}") from None
    with operator.directory() as directory:
        directory.add_domain(name)
    output.done(f"{name} added", name=name)


@domain.command("list", epilog="Example: mailserver domain list --json")
@json_option
@click.pass_obj
def list_(operator: Operator, as_json: bool) -> None:
    """Show every domain: where it is named, who gets the mail of nobody, where mail goes."""
    output = Output(as_json)
    with operator.directory() as directory:
        rows = [
            {
                "name": facts.name,
                "named_by": "command" if facts.added else "configuration",
                "catch_all": facts.catch_all,
                "deliver": facts.deliver,
            }
            for facts in directory.domain_facts()
        ]
    shown = [key for key in ("catch_all", "deliver") if any(row[key] for row in rows)]
    output.rows(("name", "named_by", *shown), rows, "There are no domains")


@domain.command("set", epilog="Example: mailserver domain set example.test --catch-all ada@example.test")
@click.argument("name")
@click.option(
    "--catch-all", metavar="ADDRESS", help="Who gets mail for names that nobody has; '' refuses it."
)
@click.option("--deliver", metavar="WHERE", help="Where mail goes instead of mailboxes; '' for mailboxes.")
@json_option
@click.pass_obj
def set_(operator: Operator, name: str, catch_all: str | None, deliver: str | None, as_json: bool) -> None:
    """Change what holds in the domain NAME. WHERE as in `mailserver user deliver`; with --catch-all '*' every
    name is a mailbox of the store there (lmtp:…)."""
    output = Output(as_json)
    if catch_all is None and deliver is None:
        raise click.UsageError("Name --catch-all or --deliver.", click.get_current_context())
    with operator.directory() as directory:
        directory.set_domain(name, catch_all, deliver)
        facts = next(one for one in directory.domain_facts() if domain_key(one.name) == domain_key(name))
    output.done(
        f"{name}: mail for nobody goes to {facts.catch_all or 'nobody'}; "
        f"other mail to {facts.deliver or 'mailboxes'}",
        name=name,
        catch_all=facts.catch_all,
        deliver=facts.deliver,
    )


@domain.command(epilog="Example: mailserver domain remove example.org --yes")
@click.argument("name")
@yes_option
@json_option
@click.pass_obj
def remove(operator: Operator, name: str, yes: bool, as_json: bool) -> None:
    """Take no more mail for the domain NAME, which a command has added and nobody uses any more."""
    output = Output(as_json)
    confirm(f"Remove the domain {name}? Mail for it will be refused.", yes)
    with operator.directory() as directory:
        directory.remove_domain(name)
    output.done(f"{name} removed", name=name)
