"""A parity report as tables: every step, the worst output of each prompt, and whatever differs."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..verify import words
from ..verify.metrics import Line
from ..verify.report import BlockLine, ParityReport, StepReport
from .output import judged, table

AROUND = 2  # blocks shown before and after the first that differs


def print_report(report: ParityReport, console: Console) -> None:
    tables = [_steps(report)] if report.steps else []
    tables += [_step(step) for step in report.steps if step.worst]
    differing = [blocks for blocks in _by_step_and_case(report.blocks) if not all(block.ok for block in blocks)]
    tables += [_around_the_first_bad(blocks) for blocks in differing]
    tables += [_shortcuts(report)] if report.shortcuts else []
    tables += [_accuracy(report)] if report.accuracy else []
    tables += [_controls(report)] if report.controls else []
    for each in tables:
        console.print(each)
        console.print()
    for name in report.damaged:
        console.print(judged(False, f"damaged {name}: its sha256 is not the manifest's; nothing was run"))
    if report.damaged:
        console.print("copy the bundle again, or build it again with --force")
    for said in words.missing(report):
        console.print(judged(False, f"required and not run: {said}"))
    unproven = f", but not run: {', '.join(report.missing)}" if report.missing and report.all_same else ""
    place = f", first diverges at {words.place(report.first_divergence)}" if report.first_divergence else ""
    if report.first_divergence and (own := words.own_error(report.first_divergence)):
        console.print(own)
    console.print(judged(report.exit_code == 0, f"verdict: {report.verdict}{place}{unproven}"))


def _steps(report: ParityReport) -> Table:
    rows = []
    for step in report.steps:
        where, numbers = step.why_not, [words.NO_NUMBER] * 3
        if step.worst:
            case, line = step.worst
            where, numbers = f"{case}, {line.stage}", _numbers(line)
        verdict = words.step_verdict(step)
        rows.append(
            [step.name, judged(step.ok, verdict) if step.ran else Text(verdict, style="yellow"), where, *numbers]
        )
    title = f"{report.precision}, fold {report.fold}, against {report.reference}"
    return table(title, ["step", "", "largest at", "error", "allowed", "step before"], rows, numbers=3)


def _step(step: StepReport) -> Table:
    """Of each prompt its worst line, and the lines that differ."""
    rows = []
    for case, lines in step.cases.items():
        worst = max(lines, key=lambda line: line.used, default=None)
        rows += [
            [
                case,
                line.stage,
                _same(line.ok),
                line.note,
                words.cosine(line.cosine),
                words.percent(line.top1),
                *_numbers(line),
            ]
            for line in lines
            if line is worst or not line.ok
        ]
    columns = ["prompt", "stage", "", "", "cosine", "top-1", "error", "allowed", "step before"]
    return table(step.name, columns, rows, numbers=5)


def _numbers(line: Line) -> list[str]:
    before = words.NO_NUMBER
    if line.before_tolerance is not None:
        before = f"{words.number(line.before)} of {words.number(line.before_tolerance)}"
    return [words.number(line.error), words.number(line.tolerance), before]


def _by_step_and_case(blocks: tuple[BlockLine, ...]) -> list[list[BlockLine]]:
    found: dict[tuple[str, str], list[BlockLine]] = {}
    for block in blocks:
        found.setdefault((block.step, block.case), []).append(block)
    return list(found.values())


def _controls(report: ParityReport) -> Table:
    rows = []
    for control in report.controls:
        planted = control.why_not or f"{words.block(control.part, control.layer)}, {control.graph}"
        found = words.NO_NUMBER if control.why_not else words.located(control.found)
        said = (
            Text("does not apply", style="yellow")
            if control.why_not
            else judged(control.ok, "found" if control.ok else "MISSED")
        )
        rows.append([control.name, said, planted, found])
    return table("known faults, each planted in a copy", ["fault", "", "planted in", "located at"], rows)


def _around_the_first_bad(blocks: list[BlockLine]) -> Table:
    first = next(i for i, block in enumerate(blocks) if not block.ok)
    rows = [
        [
            f"{block.part} {block.layer}".strip(),
            block.kind,
            _same(block.ok),
            words.cosine(block.cosine),
            words.number(block.relative),
            words.number(block.tolerance),
        ]
        for block in blocks[max(0, first - AROUND) : first + AROUND + 1]
    ]
    title = f"blocks of {blocks[0].step}, prompt {blocks[0].case}"
    return table(title, ["layer", "attention", "", "cosine", "relative", "allowed"], rows, numbers=3)


def _shortcuts(report: ParityReport) -> Table:
    rows = [
        [each.name, each.case, words.number(each.relative), words.number(each.tolerance)] for each in report.shortcuts
    ]
    title = "for information, no verdict: other published forms"
    return table(title, ["form", "prompt", "relative", f"allowed in {report.precision}"], rows, numbers=2)


def _accuracy(report: ParityReport) -> Table:
    found = report.accuracy
    rows = [["reference", words.percent(found.reference), words.NO_NUMBER]]
    rows += [[name, words.percent(v), words.percent(found.agree.get(name))] for name, v in found.bundle.items()]
    title = f"{found.metric} on {words.count(found.questions, 'question')} with a label"
    return table(title, ["", "answered right", "answers as the reference does"], rows, numbers=2)


def _same(ok: bool) -> Text:
    return judged(ok, "same" if ok else "DIFFERS")
