"""A parity report as tables: every step, the worst output of each prompt, and whatever differs."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..verify import phrasing, sections
from ..verify.metrics import NO_NUMBER
from ..verify.report import BlockLine, ParityReport, StepReport
from ..verify.sections import IN_NUMBERS, LINES_IN_TERMINAL, Badge, Column
from .output import judged, table

AROUND = 2  # blocks shown before and after the first that differs


def print_report(report: ParityReport, console: Console) -> None:
    tables = [_steps(report)] if report.steps else []
    tables += [_step(step) for step in report.steps if step.worst]
    shown = [sections.blocks(_around_the_first_bad(blocks)) for blocks in _differing(report.blocks)]
    shown += [make(report) for make in (sections.published_deviations, sections.accuracy, sections.controls)]
    tables += [_table(each.title, each.terminal, each.rows) for each in shown if each]
    for each in tables:
        console.print(each)
        console.print()
    for name in report.damaged:
        console.print(judged(False, f"damaged {name}: its sha256 is not the manifest's; nothing was run"))
    if report.damaged:
        console.print("copy the bundle again, or build it again with --force")
    for reason in phrasing.missing(report):
        console.print(judged(False, f"required and not run: {reason}"))
    unproven = f", but not run: {', '.join(report.missing)}" if report.missing and report.all_same else ""
    place = f", first diverges at {phrasing.place(report.first_divergence)}" if report.first_divergence else ""
    if report.first_divergence and (own := phrasing.own_error(report.first_divergence)):
        console.print(own)
    console.print(judged(report.exit_code == 0, f"verdict: {report.verdict}{place}{unproven}"))


def _steps(report: ParityReport) -> Table:
    def largest(step: StepReport) -> str:
        return f"{step.worst[0]}, {step.worst[1].stage}" if step.worst else step.why_not

    def of_worst(column: Column) -> Column:
        def cell(step: StepReport) -> str:
            return column.cell(step.worst[1]) if step.worst else NO_NUMBER

        return Column(column.title, cell, column.kind)

    columns = (
        Column("step", lambda step: step.name),
        Column("", sections.step_verdict),
        Column("largest at", largest),
        *map(of_worst, IN_NUMBERS),
    )
    return _table(f"{report.precision}, fold {report.fold}, against {report.reference}", columns, report.steps)


def _step(step: StepReport) -> Table:
    """Of each prompt its worst line, and the lines that differ."""
    rows = []
    for case, lines in step.cases.items():
        worst = max(lines, key=lambda line: line.used, default=None)
        rows += [(case, line) for line in lines if line is worst or not line.ok]

    def of_line(column: Column) -> Column:
        return Column(column.title, lambda row: column.cell(row[1]), column.kind)

    return _table(step.name, (Column("prompt", lambda row: row[0]), *map(of_line, LINES_IN_TERMINAL)), rows)


def _differing(blocks: Sequence[BlockLine]) -> list[list[BlockLine]]:
    """The blocks of each step and prompt that has one that differs."""
    found: dict[tuple[str, str], list[BlockLine]] = {}
    for block in blocks:
        found.setdefault((block.step, block.case), []).append(block)
    return [each for each in found.values() if not all(block.ok for block in each)]


def _around_the_first_bad(blocks: list[BlockLine]) -> list[BlockLine]:
    first = next(i for i, block in enumerate(blocks) if not block.ok)
    return blocks[max(0, first - AROUND) : first + AROUND + 1]


def _table(title: str, columns: Sequence[Column], rows: Sequence[Any]) -> Table:
    numbers = 0  # at the end
    while numbers < len(columns) and columns[-1 - numbers].kind == "number":
        numbers += 1
    cells = [[_text(column.cell(row)) for column in columns] for row in rows]
    return table(title, [column.title for column in columns], cells, numbers)


def _text(content: str | Badge) -> str | Text:
    if isinstance(content, str):
        return content
    return Text(content.text, style="yellow") if content.ok is None else judged(content.ok, content.text)
