"""``mailserver config diff|apply|confirm``: the file against what the running server does."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from mailserver.admin.config_mistakes import deeper_mistakes
from mailserver.admin.operator import Operator, Refusal, become_owner
from mailserver.admin.output import Output, json_option

COLUMNS = ("key", "running", "file", "in force")
RESTART = "after a restart"


class _Length(click.ParamType[float]):
    """A length of time such as ``5m``."""

    name = "length"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from mailserver.values.units import seconds_from

        try:
            return value if isinstance(value, float) else seconds_from(str(value))
        except ValueError:
            self.fail(f"{value!r} is no length of time; write for example 5m.", param, ctx)


@click.command(epilog="Example: mailserver --config mailserver.toml config diff")
@json_option
@click.pass_obj
def diff(operator: Operator, as_json: bool) -> None:
    """Show what differs between the file and the running server, and what a restart is needed for."""
    output = Output(as_json)
    from mailserver.config.live import table_differences
    from mailserver.config.words import as_table

    running = _ask_all(operator, "config-show")[0]
    found = table_differences(running, as_table(operator.settings))
    rows = [_row(one.key, one.old, one.new, one.is_live, "after `config apply`") for one in found]
    output.rows(COLUMNS, rows, "The running server does what the file says.")


@click.command(epilog="Example: mailserver --config mailserver.toml config apply --confirm-within 5m")
@click.option(
    "--confirm-within",
    "within",
    type=_Length(),
    default=0.0,
    metavar="5m",
    help="Take it back after so long, unless `mailserver config confirm` comes before.",
)
@json_option
@click.pass_obj
def apply(operator: Operator, within: float, as_json: bool) -> None:
    """Let the running server do what the file says, without a restart; no session is dropped.

    It counts for the next connection. Keys that need a restart are named and stay as they are. A file
    with mistakes changes nothing.
    """
    output = Output(as_json)
    if operator.path is None:
        raise Refusal(
            os.EX_USAGE, "there is no configuration file; name one: mailserver --config FILE config apply"
        )
    if mistakes := list(deeper_mistakes(operator.settings)):
        raise Refusal(os.EX_CONFIG, "\n".join(f"{operator.path}: {mistake}" for mistake in mistakes))
    text, path = operator.path.read_text(), str(operator.path.absolute())
    found = _ask_all(operator, "config-apply", text=text, path=path, within=within)[0]
    rows = [_row(one["key"], one["old"], one["new"], not one["needs_restart"], "now") for one in found]
    output.rows(COLUMNS, rows, "The running server does what the file says already.")
    if within and any(not one["needs_restart"] for one in found) and not as_json:
        output.done(f"taken back in {within:.0f} s, unless you type: mailserver config confirm")


@click.command(epilog="Example: mailserver config confirm")
@json_option
@click.pass_obj
def confirm(operator: Operator, as_json: bool) -> None:
    """Keep what `config apply --confirm-within` has changed."""
    output = Output(as_json)
    if not any(_ask_all(operator, "config-confirm")):
        raise Refusal(
            os.EX_UNAVAILABLE, "nothing waits for a confirmation; it was taken back, or confirmed before"
        )
    output.done("confirmed; it stays", confirmed=True)


def _ask_all(operator: Operator, name: str, **fields: Any) -> list[Any]:
    """The answers of all processes of the server."""
    from mailserver.control_client import NoServer, Refused, ask

    state = operator.settings.state
    become_owner(state)
    numbers = sorted(int(one.name.rpartition("-")[2]) for one in state.glob("control-[0-9]*"))
    answers = []
    for number in numbers:
        try:
            answers.append(ask(state, name, number, **fields))
        except NoServer:
            continue  # left behind by a process that was killed
        except Refused as error:
            raise Refusal(os.EX_CONFIG, f"{error}\nthe server keeps what it had") from error
    if not answers:
        raise Refusal(os.EX_UNAVAILABLE, f"no server answers in {state}; is it running?")
    return answers


def _row(key: str, old: Any, new: Any, is_live: bool, when: str) -> dict[str, Any]:
    return {
        "key": key,
        "running": _shown(old),
        "file": _shown(new),
        "in force": when if is_live else RESTART,
        "needs_restart": not is_live,
    }


def _shown(value: Any) -> str:
    return "" if value is None else json.dumps(value, ensure_ascii=False)
