"""A report's tables as rows, which the page (html.py) and the terminal (cli/report.py) show each in its own way."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from . import phrasing
from .lines import Line
from .metrics import METRICS, NO_NUMBER, number, percent, seven_digits
from .report import BlockLine, ControlReport, ParityReport, StepReport


@dataclass(frozen=True)
class Badge:
    """A word that judges; ok: None where there is no verdict"""

    text: str
    ok: bool | None


def same(ok: bool) -> Badge:
    return Badge("same" if ok else "DIFFERS", ok)


@dataclass(frozen=True)
class Column:
    """cell: row -> what stands there; kind: "head" of the row, "number", "note" or "text" """

    title: str
    cell: Callable[[Any], str | Badge]
    kind: str = "text"


@dataclass(frozen=True)
class Section:
    """A table of a report.

    title          in the terminal; heading, note: on the page
    rows           what the columns' cells are made of
    page, terminal the columns that each of them shows
    """

    title: str
    heading: str
    note: str
    rows: Sequence[Any]
    page: Sequence[Column]
    terminal: Sequence[Column]


def step_verdict(step: StepReport) -> Badge:
    return same(step.ok) if step.ran else Badge("not run", None)


def numeric(title: str, cell: Callable[[Any], float | None], write: Callable[[float | None], str] = number) -> Column:
    return Column(title, lambda row: write(cell(row)), "number")


def _before(line: Line) -> str:
    if line.before_tolerance is None:
        return NO_NUMBER
    return f"{number(line.before)} of {number(line.before_tolerance)}"


STAGE = Column("stage", lambda line: line.stage, "head")
SAME = Column("", lambda row: same(row.ok))
NOTE = Column("", lambda line: line.note, "note")
ERROR, ALLOWED = numeric("error", lambda row: row.error), numeric("allowed", lambda row: row.tolerance)
RELATIVE, COSINE = (
    numeric("relative", lambda row: row.relative),
    numeric("cosine", lambda row: row.cosine, seven_digits),
)
MEASURED = {m: numeric(m.title, lambda line, name=m.name: getattr(line, name), m.write) for m in METRICS}
IN_NUMBERS = (
    ERROR,
    ALLOWED,
    Column("step before", _before, "number"),
)  # how large a line's errors are, in the terminal

LINES_ON_PAGE = (
    *(STAGE, SAME, ERROR, ALLOWED, RELATIVE, *MEASURED.values()),
    numeric("step before", lambda line: line.before),
    numeric("allowed", lambda line: line.before_tolerance),
    NOTE,
)
LINES_IN_TERMINAL = (STAGE, SAME, NOTE, *(column for m, column in MEASURED.items() if m.brief), *IN_NUMBERS)

LAYER = Column("layer", lambda block: f"{block.part} {block.layer}".strip(), "number")
KIND = Column("attention", lambda block: block.kind)
BLOCKS_ON_PAGE = (
    Column("step", lambda block: block.step, "head"),
    Column("prompt", lambda block: block.case),
    *(LAYER, KIND, SAME, ERROR, RELATIVE, ALLOWED, COSINE),
)
BLOCKS_IN_TERMINAL = (LAYER, KIND, SAME, COSINE, RELATIVE, ALLOWED)


def blocks(lines: Sequence[BlockLine]) -> Section:
    """Every block; in the terminal those of one step and prompt."""
    title = f"blocks of {lines[0].step}, prompt {lines[0].case}"
    heading = f"blocks: {phrasing.count(len(lines), 'output')}"
    return Section(title, heading, "", lines, BLOCKS_ON_PAGE, BLOCKS_IN_TERMINAL)


def accuracy(report: ParityReport) -> Section | None:
    found = report.accuracy
    if found is None:
        return None
    columns = (
        Column("", lambda row: row[0], "head"),
        numeric("answered right", lambda row: row[1], percent),
        numeric("answers as the reference does", lambda row: row[2], percent),
    )
    rows = [("reference", found.reference, None)]
    rows += [(name, share, found.agree.get(name)) for name, share in found.bundle.items()]
    title = f"{found.metric} on {phrasing.count(found.questions, 'question')} with a label"
    return Section(title, "Accuracy", f"{phrasing.sentence(title)}.", rows, columns, columns)


def controls(report: ParityReport) -> Section | None:
    if not report.controls:
        return None

    def verdict(control: ControlReport) -> Badge:
        if control.why_not:
            return Badge("does not apply", None)
        return Badge("found" if control.ok else "MISSED", control.ok)

    def planted(control: ControlReport) -> str:
        return control.why_not or f"{phrasing.block(control.part, control.layer)}, {control.graph}"

    def located(control: ControlReport) -> str:
        return NO_NUMBER if control.why_not else phrasing.located(control.found)

    name, judged = Column("fault", lambda control: control.name, "head"), Column("", verdict)
    places = (Column("planted in", planted), Column("located at", located))
    return Section(
        "known faults, each planted in a copy",
        "Known faults",
        "Each was planted in a copy of the bundle, and the copy verified as the bundle was.",
        report.controls,
        (name, judged, Column("what it is", lambda control: control.what), *places),
        (name, judged, *places),
    )


def published_deviations(report: ParityReport) -> Section | None:
    if not report.shortcuts:
        return None
    columns = (
        Column("form", lambda each: each.name, "head"),
        Column("prompt", lambda each: each.case),
        RELATIVE,
        numeric(f"allowed in {report.precision}", lambda each: each.tolerance),
    )
    return Section(
        "for information, no verdict: other published forms",
        "Shortcuts",
        "For information, no verdict: how far other published forms would be from the exact one, in units of the reference's standard "
        f"deviation, and what a bundle in {report.precision} would be allowed. Nothing above uses them.",
        report.shortcuts,
        columns,
        columns,
    )
