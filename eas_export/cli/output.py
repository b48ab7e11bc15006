"""Output of commands: tables for people, JSON for programs."""

import functools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import click
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.measure import Measurement
from rich.text import Text

from ..core.errors import UserError
from ..system.files import require_writable, written_whole
from .width import fill, line_width

PIPED_WIDTH = 100  # columns, where COLUMNS does not say
GAP = 2  # columns between those of a table
PATH = click.Path(path_type=Path)
json_file: Path | None = None  # where --json-file may be written: set when a command starts


def json_option(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """--json, passed on as `as_json`, and --json-file (see `print_json`)."""

    @functools.wraps(command)
    def run(*, json_path: Path | None, **given: Any) -> int | None:
        global json_file
        json_file = None  # of an earlier command in this process
        json_file = json_path and _require_own(json_path, given)
        return command(**given)

    to_file = "Also write that object to a file, a new one or an earlier --json-file; standard output stays as it is."
    run = click.option("--json-file", "json_path", type=PATH, help=to_file)(run)
    as_json = (
        "Print one JSON object on standard output instead of tables, and progress as JSON lines on standard error."
    )
    return click.option("--json", "as_json", is_flag=True, help=as_json)(run)


def _require_own(path: Path, given: Mapping[str, Any]) -> Path:
    """The path, before any work. Raises UserError where it cannot be written or is another file: of the command, of a bundle, or of
    anybody but an earlier --json-file."""
    from ..bundle.manifest import MANIFEST

    target = require_writable(path)
    values = [each for value in given.values() for each in (value if isinstance(value, tuple) else (value,))]
    others = {value.resolve() for value in values if isinstance(value, Path)}
    fix = "give another name"
    if target in others:
        kind = "names a file that the command reads or writes"
    elif (target.parent / MANIFEST).exists():
        kind = "is inside a bundle"
    elif target.exists() and not others.isdisjoint(target.parents):
        kind = "names a file in a folder that the command reads or writes"
        fix = "give a name outside of that folder, or a new one"
    elif target.exists() and not _is_own(target):
        kind = "would replace a file that it did not write"
    else:
        return target
    raise UserError(f"--json-file {kind}", where=f"--json-file {path}", fix=fix)


def _is_own(path: Path) -> bool:
    """Whether the file is empty, or byte for byte as `print_json` writes an object."""
    try:
        content = path.read_bytes()
        value = json.loads(content) if content.startswith(b"{") else None
        return not content or (value is not None and f"{_as_text(value)}\n".encode() == content)
    except (OSError, ValueError, RecursionError):
        return False


class PlainConsole(Console):
    """Prints text as it is, since a path may hold brackets; lines break at spaces alone, so that paths can be copied."""

    def __init__(self) -> None:
        super().__init__(highlight=False, markup=False, width=line_width(sys.stdout, PIPED_WIDTH))

    def print(self, *objects: Any, **options: Any) -> None:
        lines = [_wrapped(each, self.width, "  ") if isinstance(each, str | Text) else each for each in objects]
        super().print(*lines, **{"crop": False, "no_wrap": True, "overflow": "ignore"} | options)


def stdout_console() -> Console:
    return PlainConsole()


@dataclass(frozen=True)
class Table:
    """Columns as wide as their cells. Where the line is too short, texts break at spaces while words and numbers stay whole; columns
    that still do not fit are printed below, next to those that tell the rows apart.

    rows     cells; a Text has its color
    numbers  how many of the last columns are numbers, aligned to the right
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Text]]
    numbers: int = 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        if self.title:
            yield _wrapped(Text(self.title, style="italic"), options.max_width)
        for widths in self._blocks(options.max_width):
            head = [Text(column, style="bold") for column in self.columns]
            for row in [head, *self.rows] if any(self.columns) else self.rows:
                cells = [_wrapped(row[column], width).split(allow_blank=True) for column, width in widths.items()]
                for parts in zip_longest(*cells):
                    line = [Text() if part is None else part for part in parts]
                    for part, (column, width) in zip(line, widths.items()):
                        part.align("right" if self._is_number(column) else "left", width)
                    joined = Text(" " * GAP, no_wrap=True, overflow="ignore").join(line)
                    joined.rstrip()
                    yield joined

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        gaps = GAP * (len(self.columns) - 1)
        return Measurement(*(sum(widths) + gaps for widths in self._widths()))

    def _widths(self) -> tuple[list[int], list[int]]:
        """Of each column the width of its longest word or number, and that of its longest cell."""
        least, most = [], []
        for column, head in enumerate(self.columns):
            lines = [line for row in self.rows for line in str(row[column]).split("\n")]
            words = head.split() + (lines if self._is_number(column) else " ".join(lines).split())
            least.append(max(map(cell_len, words), default=0))
            most.append(max(map(cell_len, [*head.split("\n"), *lines])))
        return least, most

    def _blocks(self, available: int) -> Iterator[dict[int, int]]:
        """The columns that are printed beside each other, each with its width."""
        least, most = self._widths()
        texts = range(1, len(least) - self.numbers)
        first = next((n for n in texts if len({str(row[:n]) for row in self.rows}) == len(self.rows)), 1)
        left = [*range(first, len(least))]
        while True:
            block = [*range(first)]
            while left and (len(block) == first or sum(least[c] + GAP for c in (*block, left[0])) - GAP <= available):
                block.append(left.pop(0))
            widths = {column: most[column] for column in block}
            while sum(widths.values()) + GAP * (len(widths) - 1) > available:
                loose = [column for column in block if widths[column] > least[column]]
                if not loose:
                    break
                widths[max(loose, key=widths.get)] -= 1
            yield widths
            if not left:
                return

    def _is_number(self, column: int) -> bool:
        return column >= len(self.columns) - self.numbers


def _wrapped(text: str | Text, width: int, indent: str = "") -> Text:
    text = Text(text) if isinstance(text, str) else text
    return Text(fill(text.plain, max(width, 1), indent), style=text.style, no_wrap=True, overflow="ignore")


def judged(ok: bool, text: str) -> Text:
    return Text(text, style="green" if ok else "red")


def as_plain(value: Any) -> Any:
    """A value with its records as plain dicts and lists, for JSON."""
    if isinstance(value, dict):
        return {key: as_plain(each) for key, each in value.items()}
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


def print_json(value: Any, as_json: bool) -> None:
    """Print an object where --json is given, and write it where --json-file is."""
    text = _as_text(value)
    if as_json:
        click.echo(text)
    if json_file:
        with written_whole(json_file) as file:
            file.write(f"{text}\n".encode())


def _as_text(value: Any) -> str:
    return json.dumps(value, indent=1)


def size(number: float) -> str:
    """Bytes in decimal units: 13.50 GB"""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= factor:
            return f"{number / factor:.2f} {unit}"
    return f"{number:.0f} B"
