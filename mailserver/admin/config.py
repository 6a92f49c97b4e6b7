"""``mailserver config``: is the configuration right, and what does it come to?"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from mailserver.admin.operator import Operator, Refusal
from mailserver.admin.output import Output, json_option
from mailserver.values.units import duration_text, octets_from

if TYPE_CHECKING:
    from mailserver.config import Settings


@click.group(epilog="Example: mailserver --config mailserver.toml config check")
def config() -> None:
    """Check and show the configuration."""


@config.command(epilog="Example: mailserver --config mailserver.toml config check")
@json_option
@click.pass_obj
def check(operator: Operator, as_json: bool) -> None:
    """Say everything that is wrong in the configuration; nothing is opened or changed.

    Exits with 78 when there is something.
    """
    output = Output(as_json)
    settings = operator.settings
    name = str(operator.path or "quick start")
    if mistakes := list(_deeper_mistakes(settings)):
        raise Refusal(os.EX_CONFIG, "\n".join(f"{name}: {mistake}" for mistake in mistakes))
    output.done(f"{name}: no mistakes", file=name, domains=list(settings.domains))


@config.command(epilog="Example: mailserver config show --json")
@json_option
@click.pass_obj
def show(operator: Operator, as_json: bool) -> None:
    """Print the whole configuration as it is in force, defaults included, as a file that could be used."""
    output = Output(as_json)
    table = as_table(operator.settings)
    output.text(as_toml(table), table)


def _deeper_mistakes(settings: Settings) -> Iterator[str]:
    """What shows only when Twisted reads the endpoints and OpenSSL the certificate."""
    import attrs
    from twisted.internet.endpoints import serverFromString

    for key, description in attrs.asdict(settings.listen).items():
        try:
            if description:
                serverFromString(object(), description)
        except Exception as error:  # each kind of endpoint has its own
            yield f"listen.{key}: {json.dumps(description)} is not understood by Twisted: {error}"
    if settings.tls:
        from mailserver.certificates import CertificateError, read_pair

        try:
            read_pair(settings.tls.certificate, settings.tls.key)
        except CertificateError as error:
            yield f"tls: {error}"


def as_table(settings: Settings) -> dict[str, Any]:
    """The settings in the words of the file: lengths of time and amounts with their units."""
    import attrs

    table = attrs.asdict(settings)
    relay = table["relay"]
    relay["retry"] = [duration_text(seconds) for seconds in relay["retry"]]
    relay["warn_after"] = duration_text(relay["warn_after"])
    relay["give_up_after"] = duration_text(relay["give_up_after"])
    relay["trusted_networks"] = [str(network) for network in relay["trusted_networks"]]
    relay["nameservers"] = list(relay["nameservers"])
    relay["routes"] = dict(relay["routes"])
    table["limits"]["message_size"] = _size_text(table["limits"]["message_size"])
    table["submission"]["hold"] = duration_text(hold) if (hold := table["submission"]["hold"]) else ""
    table["domains"] = list(table["domains"])
    table["state"] = str(table["state"])
    table["store"]["path"] = str(table["store"]["path"])
    table["store"]["quotas"] = dict(table["store"]["quotas"])
    table["tls"] = table["tls"] and {name: str(path) for name, path in table["tls"].items()}
    return {key: value for key, value in table.items() if value is not None}


def _size_text(octets: int) -> str | int:
    """With the largest unit that loses nothing."""
    for unit in ("GiB", "MiB", "KiB"):
        if octets % octets_from(f"1 {unit}") == 0:
            return f"{octets // octets_from(f'1 {unit}')} {unit}"
    return octets


def as_toml(table: dict[str, Any], name: str = "") -> str:
    """The table as a TOML file."""
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    inner = {key: value for key, value in table.items() if isinstance(value, dict)}
    # JSON's strings, numbers, booleans and lists of them are also TOML's, but for DEL, which no setting has.
    lines = [f"[{name}]"] if name else []
    lines += [f"{_key(key)} = {json.dumps(value, ensure_ascii=False)}" for key, value in plain.items()]
    blocks = ["\n".join(lines)] if len(lines) > bool(name) else []
    blocks += [as_toml(value, f"{name}.{key}" if name else key) for key, value in inner.items() if value]
    return "\n\n".join(blocks)


def _key(key: str) -> str:
    return key if key.isascii() and key.replace("_", "").isalnum() else json.dumps(key, ensure_ascii=False)
