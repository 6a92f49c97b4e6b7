"""``mailserver config``: is the configuration right, and what does it come to?"""

from __future__ import annotations

import json
import os
from typing import Any

import click

from mailserver.admin.config_live import apply, confirm, diff
from mailserver.admin.config_mistakes import deeper_mistakes
from mailserver.admin.operator import Operator, Refusal
from mailserver.admin.output import Output, json_option


@click.group(epilog="Example: mailserver --config mailserver.toml config check")
def config() -> None:
    """Check, show, compare and apply the configuration."""


@config.command(epilog="Example: mailserver --config mailserver.toml config check")
@json_option
@click.pass_obj
def check(operator: Operator, as_json: bool) -> None:
    """Say what is wrong in the configuration; nothing is opened or changed, but rules are imported.

    Exits with 78 when there is something.
    """
    output = Output(as_json)
    settings = operator.settings
    name = str(operator.path or "quick start")
    if mistakes := list(deeper_mistakes(settings)):
        raise Refusal(os.EX_CONFIG, "\n".join(f"{name}: {mistake}" for mistake in mistakes))
    output.done(f"{name}: no mistakes", file=name, domains=list(settings.domains))


@config.command(epilog="Example: mailserver config show --json")
@json_option
@click.pass_obj
def show(operator: Operator, as_json: bool) -> None:
    """Print the whole configuration as it is in force, defaults included, as a file that could be used."""
    output = Output(as_json)
    from mailserver.config.words import as_table

    table = as_table(operator.settings)
    output.text(as_toml(table), table)


config.add_command(apply)
config.add_command(confirm)
config.add_command(diff)


def _value(value: Any) -> str:
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        tables = (", ".join(f"{_key(k)} = {_value(v)}" for k, v in item.items()) for item in value)
        return f"[{', '.join(f'{{ {table} }}' for table in tables)}]"
    return json.dumps(value, ensure_ascii=False)


def as_toml(table: dict[str, Any], name: str = "") -> str:
    """The table as a TOML file."""
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    inner = {key: value for key, value in table.items() if isinstance(value, dict)}
    # JSON's strings, numbers, booleans and lists of them are also TOML's, but for DEL, which no setting has.
    lines = [f"[{name}]"] if name else []
    lines += [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    blocks = ["\n".join(lines)] if len(lines) > bool(name) else []
    blocks += [as_toml(value, f"{name}.{key}" if name else key) for key, value in inner.items() if value]
    return "\n\n".join(blocks)


def _key(key: str) -> str:
    return key if key.isascii() and key.replace("_", "").isalnum() else json.dumps(key, ensure_ascii=False)
