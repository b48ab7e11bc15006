"""A report's tables, in HTML."""

from html import escape

from . import words
from .metrics import Line
from .report import ParityReport, StepReport

NUMBERS = ("error", "allowed", "relative", "cosine", "KL", "top-1", "top-5", "step before")
NUMBER_COLUMNS = {*NUMBERS, "layer", "answered right", "answers as the reference does"}


def badge(text: str, ok: bool | None) -> str:
    """ok: None where there is no verdict"""
    css = {True: "good", False: "bad", None: "warn"}[ok]
    return f'<span class="badge {css}">{escape(text)}</span>'


def tokens(report: ParityReport) -> str:
    """Top-1 agreement, prompt by step."""
    ran = [step for step in report.steps if step.ran]
    found = {
        (step.name, case): line
        for step in ran
        for case, lines in step.cases.items()
        for line in lines
        if line.stage == "tokens"
    }
    if not found:
        return ""
    cases = dict.fromkeys(case for _, case in found)
    rows = [[_head(case), *(_agreement(found.get((step.name, case))) for step in ran)] for case in cases]
    said = (
        "The share of tokens that are the reference's. Where the reference prefers its own by no more than twice the "
        "tolerance, another one is no difference."
    )
    return _section("Tokens", said, _table(["prompt", *(step.name for step in ran)], rows, "grid"))


def accuracy(report: ParityReport) -> str:
    found = report.accuracy
    if found is None:
        return ""
    rows = [[_head("reference"), _number(words.percent(found.reference)), _number(words.NO_NUMBER)]]
    rows += [
        [_head(name), _number(words.percent(value)), _number(words.percent(found.agree.get(name)))]
        for name, value in found.bundle.items()
    ]
    said = f"{words.sentence(found.metric)} on {words.count(found.questions, 'question')} with a label."
    return _section("Accuracy", said, _table(["", "answered right", "answers as the reference does"], rows))


def controls(report: ParityReport) -> str:
    if not report.controls:
        return ""
    rows = []
    for each in report.controls:
        said = badge("does not apply", None) if each.why_not else badge("found" if each.ok else "MISSED", each.ok)
        planted = each.why_not or f"{words.block(each.part, each.layer)}, {each.graph}"
        found = words.NO_NUMBER if each.why_not else words.located(each.found)
        rows.append([_head(each.name), f"<td>{said}</td>", _cell(each.what), _cell(planted), _cell(found)])
    said = "Each was planted in a copy of the bundle, and the copy verified as the bundle was."
    return _section("Known faults", said, _table(["fault", "", "what it is", "planted in", "located at"], rows))


def shortcuts(report: ParityReport) -> str:
    if not report.shortcuts:
        return ""
    rows = [
        [
            _head(each.name),
            _cell(each.case),
            _number(words.number(each.relative)),
            _number(words.number(each.tolerance)),
        ]
        for each in report.shortcuts
    ]
    said = (
        "For information, no verdict: how far other published forms would be from the exact one, in units of the "
        f"reference's standard deviation, and what a bundle in {report.precision} would be allowed. Nothing above uses them."
    )
    return _section("Shortcuts", said, _table(["form", "prompt", "relative", "allowed"], rows))


def details(report: ParityReport) -> str:
    """Every number, folded away where nothing differs."""
    found = [_step_details(step) for step in report.steps if step.ran]
    found += [_blocks_details(report)] if report.blocks else []
    found += [_files_details(report)] if report.files else []
    return f"<section><h2>All numbers</h2>{''.join(found)}</section>" if found else ""


def _step_details(step: StepReport) -> str:
    lines = [line for each in step.cases.values() for line in each]
    heading = f"{step.name}: {words.count(len(step.cases), 'prompt')}, {words.count(len(lines), 'output')}"
    columns = ["stage", "", *NUMBERS, "allowed", ""]
    bodies = []
    for case, each in step.cases.items():
        caption = f'<tr><th colspan="{len(columns)}" scope="rowgroup">prompt {escape(case)}</th></tr>'
        bodies.append(f"<tbody>{caption}{''.join(_row(_line_cells(line)) for line in each)}</tbody>")
    said = f"{words.sentence(step.what)}."
    if step.before:
        allowed = f"{words.number(step.tolerance)} of the reference's standard deviation is allowed"
        said += f" The step before is {step.before}: from it, {allowed} ({step.reason})."
    note = f'<p class="quiet">{escape(said)}</p>'
    return _folded(heading, _same(step.ok), not step.ok, note + _wrapped(_header(columns) + "".join(bodies)))


def _line_cells(line: Line) -> list[str]:
    numbers = [
        words.number(line.error),
        words.number(line.tolerance),
        words.number(line.relative),
        words.cosine(line.cosine),
        words.number(line.kl),
        words.percent(line.top1),
        words.percent(line.top5),
        words.number(line.before),
        words.number(line.before_tolerance),
    ]
    return [
        _head(line.stage),
        f"<td>{_same(line.ok)}</td>",
        *map(_number, numbers),
        f'<td class="note">{escape(line.note)}</td>',
    ]


def _blocks_details(report: ParityReport) -> str:
    rows = [
        [
            _head(block.step),
            _cell(block.case),
            _number(f"{block.part} {block.layer}".strip()),
            _cell(block.kind),
            f"<td>{_same(block.ok)}</td>",
            _number(words.number(block.error)),
            _number(words.number(block.relative)),
            _number(words.number(block.tolerance)),
            _number(words.cosine(block.cosine)),
        ]
        for block in report.blocks
    ]
    columns = ["step", "prompt", "layer", "attention", "", "error", "relative", "allowed", "cosine"]
    ok = all(block.ok for block in report.blocks)
    return _folded(f"blocks: {words.count(len(rows), 'output')}", _same(ok), not ok, _table(columns, rows))


def _files_details(report: ParityReport) -> str:
    def badge_of(ok: bool) -> str:
        return badge("as in the manifest" if ok else "DAMAGED", ok)

    rows = [[_head(line.name), f"<td>{badge_of(line.ok)}</td>"] for line in report.files]
    heading, damaged = f"files: {len(report.files)}", bool(report.damaged)
    return _folded(heading, badge_of(not damaged), damaged, _table(["file", "sha256"], rows))


def _agreement(line: Line | None) -> str:
    if line is None:
        return _cell(words.NO_NUMBER)
    same = line.top1 == 1
    css = "bad" if not line.ok else "good" if same else "warn"
    note = "" if line.ok and same else ", within tolerance" if line.ok else ", DIFFERS"
    return f'<td class="{css}" title="{escape(line.note)}">{words.percent(line.top1)}{note}</td>'


def _same(ok: bool) -> str:
    return badge("same" if ok else "DIFFERS", ok)


def _head(text: str) -> str:
    return f'<th scope="row">{escape(text)}</th>'


def _cell(text: str) -> str:
    return f"<td>{escape(text)}</td>"


def _number(text: str) -> str:
    return f'<td class="number">{escape(text)}</td>'


def _row(cells: list[str]) -> str:
    return f"<tr>{''.join(cells)}</tr>"


def _header(columns: list[str]) -> str:
    css = {True: ' class="number"', False: ""}
    cells = [f'<th scope="col"{css[column in NUMBER_COLUMNS]}>{escape(column)}</th>' for column in columns]
    return f"<thead>{_row(cells)}</thead>"


def _table(columns: list[str], rows: list[list[str]], css: str = "") -> str:
    return _wrapped(f"{_header(columns)}<tbody>{''.join(map(_row, rows))}</tbody>", css)


def _wrapped(inner: str, css: str = "") -> str:
    return f'<div class="wide"><table class="{css}">{inner}</table></div>'


def _section(heading: str, said: str, inner: str) -> str:
    return f"<section><h2>{escape(heading)}</h2><p>{escape(said)}</p>{inner}</section>"


def _folded(heading: str, verdict: str, opened: bool, inner: str) -> str:
    start = "<details open>" if opened else "<details>"
    return f"{start}<summary>{escape(heading)} {verdict}</summary>{inner}</details>"
