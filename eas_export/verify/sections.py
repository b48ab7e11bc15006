"""A report's tables as rows, which the page (html.py) and the terminal (cli/report.py) show each in its own way.

A section of `for_information` takes no part in the verdict: it stands apart, and has no badges.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from . import phrasing
from .lines import Line
from .metrics import METRICS, NO_NUMBER, number, percent, seven_digits
from .report import BlockLine, ControlReport, ParityReport, StepReport


@dataclass(frozen=True)
class Badge:
    """A word that judges; ok: None where nothing was judged"""

    text: str
    ok: bool | None


def same(ok: bool) -> Badge:
    return Badge("same" if ok else "DIFFERS", ok)


@dataclass(frozen=True)
class Column:
    """cell: row -> its content; kind: "head" of the row, "number", "place", "note" or "text"; optional: left out where a terminal is too narrow,
    from left to right"""

    title: str
    cell: Callable[[Any], str | Badge]
    kind: str = "text"
    optional: bool = False


@dataclass(frozen=True)
class Section:
    """A table of a report.

    note            a sentence or two under the heading
    page, terminal  the columns that each of them shows
    remarks         lines under the terminal's table; the page shows them in a column
    """

    heading: str
    note: str
    rows: Sequence[Any]
    page: Sequence[Column]
    terminal: Sequence[Column]
    remarks: Sequence[str] = ()


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
# how large a line's errors are, in the terminal
IN_NUMBERS = (ERROR, ALLOWED, Column("step before", _before, "number"))

LINES_ON_PAGE = (
    *(STAGE, SAME, ERROR, ALLOWED, RELATIVE, *MEASURED.values()),
    numeric("step before", lambda line: line.before),
    numeric("allowed", lambda line: line.before_tolerance),
    NOTE,
)
BRIEF = tuple(replace(column, optional=True) for m, column in MEASURED.items() if m.brief)
LINES_IN_TERMINAL = (STAGE, SAME, *BRIEF, *IN_NUMBERS)

NAMED = Column("which", lambda line: ", ".join(f"{each.name} ({number(each.error)})" for each in line.named), "note")

LAYER = Column("layer", lambda block: f"{block.part} {block.layer}".strip(), "number")
KIND = Column("kind", lambda block: block.kind)
BLOCKS_ON_PAGE = (
    Column("step", lambda block: block.step, "head"),
    Column("prompt", lambda block: block.case),
    *(LAYER, KIND, SAME, ERROR, RELATIVE, ALLOWED, COSINE),
)
BLOCKS_IN_TERMINAL = (LAYER, KIND, SAME, COSINE, RELATIVE, ALLOWED)


def blocks(lines: Sequence[BlockLine]) -> Section:
    """Every block; in the terminal those of one step and prompt."""
    heading = f"blocks of {lines[0].step}, prompt {lines[0].case}"
    return Section(heading, "", lines, BLOCKS_ON_PAGE, BLOCKS_IN_TERMINAL)


def weights(report: ParityReport) -> Section | None:
    if not report.weights:
        return None
    columns = (
        Column("tensors", lambda line: line.kind, "head"),
        SAME,
        Column("compared", lambda line: str(line.tensors), "number"),
        Column("differ", lambda line: str(line.differ), "number"),
    )
    wrong = [f"{each.name}: off by {number(each.error)}" for line in report.weights for each in line.named]
    note = "Every stored tensor beside the checkpoint's: to the bit where it was copied, within one rounding where it was computed."
    return Section("Stored weights", note, report.weights, (*columns, NAMED), columns, wrong)


def controls(report: ParityReport) -> Section | None:
    if not report.controls:
        return None

    def verdict(control: ControlReport) -> Badge:
        return Badge("n/a", None) if control.why_not else Badge("found" if control.ok else "MISSED", control.ok)

    def planted(control: ControlReport) -> str:
        return NO_NUMBER if control.why_not else f"{phrasing.block(control.part, control.layer)}, {control.graph}"

    def located(control: ControlReport) -> str:
        return NO_NUMBER if control.why_not else phrasing.located(control.found)

    def stage(control: ControlReport) -> str:
        """Short, for the terminal: whatever is not in the planted layer has a remark."""
        found = control.found
        in_its_layer = found and (found.part, found.layer) == (control.part, control.layer)
        return found.stage if in_its_layer else NO_NUMBER if control.why_not else "elsewhere" if found else "nowhere"

    def what(control: ControlReport) -> str:
        return f"{control.what} (n/a: {control.why_not})" if control.why_not else control.what

    fault, judged = Column("fault", lambda control: control.name, "head"), Column("", verdict)
    place = Column("planted in", planted, "place")
    return Section(
        "Known faults, each planted in a copy of the bundle",
        "Each copy was verified like the bundle; a missed fault makes the exit code 1.",
        report.controls,
        (fault, judged, place, Column("located at", located, "place"), Column("what it is", what, "note")),
        (fault, judged, place, Column("located at", stage)),
        [f"{each.name}: {each.why_not or located(each)}" for each in report.controls if each.why_not or not each.ok],
    )


def for_information(report: ParityReport) -> list[Section]:
    """What takes no part in the verdict."""
    return [section for section in (_accuracy(report), _published_deviations(report)) if section]


def _accuracy(report: ParityReport) -> Section | None:
    accuracy = report.accuracy
    if accuracy is None:
        return None
    columns = (
        Column("", lambda row: row[0], "head"),
        numeric("answered right", lambda row: row[1], percent),
        numeric("answers as the reference does", lambda row: row[2], percent),
    )
    rows, scores = [], (accuracy, *accuracy.others)
    for score in scores:
        of = f", {score.metric}" if accuracy.others else ""
        agree = accuracy.agree if score is accuracy else {}
        rows.append((f"reference{of}", score.reference, None))
        rows += [(f"{name}{of}", share, agree.get(name)) for name, share in score.bundle.items()]
    metrics = phrasing.joined([score.metric for score in scores])
    what = "text" if accuracy.others else "question"
    known = "and their images" if accuracy.others else "with a label"
    note = f"{phrasing.sentence(metrics)} on {phrasing.count(accuracy.questions, what)} {known}."
    return Section(_apart("task accuracy"), note, rows, columns, columns)


def _published_deviations(report: ParityReport) -> Section | None:
    if not report.shortcuts:
        return None
    columns = (
        Column("published code", lambda each: each.name, "head"),
        Column("prompt", lambda each: each.case),
        numeric("distance from exact", lambda each: each.relative),
    )
    note = (
        "How far the published code's own ways are from the exact logits, in units of the reference's standard deviation. The bundle "
        f"does not use them. For scale: the tolerance in {report.precision} is {number(report.shortcuts[0].tolerance)}."
    )
    return Section(_apart("the published code on these prompts"), note, report.shortcuts, columns, columns)


def _apart(what: str) -> str:
    return f"For information: {what} (not part of the verdict)"
