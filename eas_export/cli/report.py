"""A parity report in the terminal: the verdict, every step, each prompt's largest error, whatever differs, and the verdict again.

Tables leave out optional columns where the terminal is too narrow for them.
"""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from ..verify import phrasing, sections
from ..verify.metrics import NO_NUMBER
from ..verify.report import BlockLine, ParityReport, StepReport
from ..verify.sections import IN_NUMBERS, LINES_IN_TERMINAL, Badge, Column, Section
from .output import Table, judged

AROUND = 2  # blocks shown before and after the first that differs


def print_report(report: ParityReport, console: Console, exits: bool = False) -> None:
    """exits: whether the command exits with the report's exit code, which the verdict's line then explains"""
    meaning = f" ({phrasing.exit_meaning(report)})" if exits else ""
    verdict = judged(report.exit_code == 0, f"verdict: {report.verdict}{meaning}")
    console.print(verdict)
    console.print()
    shown = [_steps(report)] if report.steps else []
    shown += [_step(step) for step in report.steps if step.worst]
    shown += [sections.blocks(_around_the_first_bad(blocks)) for blocks in _differing(report.blocks)]
    shown += [sections.weights(report), sections.controls(report), *sections.for_information(report)]
    for section in filter(None, shown):
        console.print(Text(section.heading, style="bold"))
        if section.note:
            console.print(section.note)
        console.print(_fitting(console, section.terminal, section.rows))
        for remark in section.remarks:
            console.print(remark)
        console.print()
    for reason in phrasing.reasons(report):
        console.print(judged(report.exit_code == 0, reason))
    console.print(verdict)


def _steps(report: ParityReport) -> Section:
    def of_worst(column: Column) -> Column:
        return Column(column.title, lambda step: column.cell(step.worst[1]) if step.worst else NO_NUMBER, column.kind)

    at = Column(
        "largest at", lambda step: f"{step.worst[0]}, {step.worst[1].stage}" if step.worst else "", optional=True
    )
    columns = (
        Column("step", lambda step: step.name),
        Column("", sections.step_verdict),
        at,
        *map(of_worst, IN_NUMBERS),
    )
    heading = f"{report.precision}, fold {report.fold}, against {report.reference}"
    # those that were required are named beside the verdict
    not_run = [step for step in report.steps if not step.ran and step.name not in report.missing]
    remarks = [f"{step.name} was not run: {step.why_not}" for step in not_run]
    remarks += [f"{step.name}: {step.what}" for step in report.steps if not step.before]  # beside no other step
    return Section(heading, "", report.steps, (), columns, remarks)


def _step(step: StepReport) -> Section:
    """Of each prompt its worst line, and the lines that differ."""
    rows = []
    for case, lines in step.cases.items():
        worst = max(lines, key=lambda line: line.used, default=None)
        rows += [(case, line) for line in lines if line is worst or not line.ok]

    def of_line(column: Column) -> Column:
        return Column(column.title, lambda row: column.cell(row[1]), column.kind, column.optional)

    columns = (Column("prompt", lambda row: row[0]), *map(of_line, LINES_IN_TERMINAL))
    heading = f"{step.name}: each prompt's largest error{'' if step.ok else ', and what differs'}"
    return Section(
        heading, "", rows, (), columns, [f"{case}, {line.stage}: {line.note}" for case, line in rows if line.note]
    )


def _differing(blocks: Sequence[BlockLine]) -> list[list[BlockLine]]:
    """The blocks of each step and prompt that has one that differs."""
    groups: dict[tuple[str, str], list[BlockLine]] = {}
    for block in blocks:
        groups.setdefault((block.step, block.case), []).append(block)
    return [group for group in groups.values() if not all(block.ok for block in group)]


def _around_the_first_bad(blocks: list[BlockLine]) -> list[BlockLine]:
    first = next(i for i, block in enumerate(blocks) if not block.ok)
    return blocks[max(0, first - AROUND) : first + AROUND + 1]


def _fitting(console: Console, columns: Sequence[Column], rows: Sequence[Any]) -> Table:
    """A table of as many columns as the console is wide enough for."""
    unbounded = console.options.update(width=10_000)
    while True:
        result = _table(columns, rows)
        optional = [column for column in columns if column.optional]
        if not optional or console.measure(result, options=unbounded).maximum <= console.width:
            return result
        columns = [column for column in columns if column is not optional[0]]


def _table(columns: Sequence[Column], rows: Sequence[Any]) -> Table:
    numbers = 0  # at the end
    while numbers < len(columns) and columns[-1 - numbers].kind == "number":
        numbers += 1
    cells = [[_text(column.cell(row)) for column in columns] for row in rows]
    return Table("", [column.title for column in columns], cells, numbers)


def _text(content: str | Badge) -> str | Text:
    if isinstance(content, str):
        return content
    return Text(content.text, style="yellow") if content.ok is None else judged(content.ok, content.text)
