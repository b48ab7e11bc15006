"""How commands talk: tables for people, JSON for machines."""

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object to standard output instead of tables, and progress as JSON lines to standard error.",
)
PATH = click.Path(path_type=Path)


def stdout_console() -> Console:
    """Prints text as it is: a path may hold brackets. Tables keep their full width when nobody looks at them."""
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=120)


def judged(ok: bool, text: str) -> Text:
    return Text(text, style="green" if ok else "red")


def as_plain(value: Any) -> Any:
    """Records, and tables of them, as what JSON knows."""
    if isinstance(value, dict):
        return {key: as_plain(each) for key, each in value.items()}
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=1))


def table(title: str, columns: list[str], rows: list[list[str | Text]], numbers: int = 0) -> Table:
    """A table whose last `numbers` columns are aligned to the right."""
    result = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for position, column in enumerate(columns):
        right = position >= len(columns) - numbers
        result.add_column(column, justify="right" if right else "left", no_wrap=right)
    for row in rows:
        result.add_row(*row)
    return result


def size(number: float) -> str:
    """Bytes in decimal units: 13.50 GB"""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= factor:
            return f"{number / factor:.2f} {unit}"
    return f"{number:.0f} B"
