"""How commands talk: tables and progress for people, JSON for machines."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from ..progress import Progress

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object to standard output instead of tables."
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


class TerminalProgress(Progress):
    """Bars on a terminal, a line per finished stage elsewhere; all on standard error."""

    def __init__(self):
        self.console = Console(stderr=True, highlight=False)

    @contextmanager
    def stage(self, title: str, total: int | None = None, unit: str = "bytes") -> Iterator[Callable[[int], None]]:
        start = time.monotonic()
        if not self.console.is_terminal:
            yield lambda done: None
        else:
            columns = [SpinnerColumn(), TextColumn("{task.description}")]
            counted = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
            columns += [BarColumn(), counted, TimeRemainingColumn()] if total else [TimeElapsedColumn()]
            with Bars(*columns, console=self.console, transient=True) as bars:
                task = bars.add_task(title, total=total)
                yield lambda done: bars.advance(task, done)
        amount = f", {size(total) if unit == 'bytes' else f'{total} {unit}'}" if total else ""
        print(f"{title}: done in {time.monotonic() - start:.1f} s{amount}", file=sys.stderr)
