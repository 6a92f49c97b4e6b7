"""What commands print: tables for people, plain columns for pipes, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from mailserver.values.text import printable

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

Row = Mapping[str, Any]


class Output:
    """One command's output. Made before anything else, so that what it imports is at hand."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._on_terminal = not as_json and sys.stdout.isatty()
        if self._on_terminal:
            import rich.console
            import rich.table  # noqa: F401

    def rows(self, columns: Sequence[str], rows: Sequence[Row], nothing: str) -> None:
        """A table with a line for each row. JSON has all that is in the rows, people see ``columns``;
        ``nothing`` is said, on standard error, when there is no row."""
        if self._as_json:
            self._json(list(rows))
        elif not rows:
            click.echo(nothing, err=True)
        elif self._on_terminal:
            _rich_table(columns, rows)
        else:
            _plain_columns(columns, rows)

    def done(self, text: str, **fields: Any) -> None:
        """One line that tells what was done, or its fields."""
        if self._as_json:
            self._json(fields)
        else:
            click.echo(printable(text))

    def text(self, text: str, fields: Any) -> None:
        """Text of several lines, or its fields."""
        if self._as_json:
            self._json(fields)
        else:
            click.echo("\n".join(printable(line, 10_000) for line in text.split("\n")))

    def _json(self, value: Any) -> None:
        click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def _cells(columns: Sequence[str], rows: Sequence[Row]) -> list[list[str]]:
    return [[_cell(row.get(column)) for column in columns] for row in rows]


def _cell(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_cell, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else printable(str(value))


def _rich_table(columns: Sequence[str], rows: Sequence[Row]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for cells in _cells(columns, rows):
        table.add_row(*map(Text, cells))
    Console().print(table)


def _plain_columns(columns: Sequence[str], rows: Sequence[Row]) -> None:
    lines = [list(columns), *_cells(columns, rows)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(columns))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
