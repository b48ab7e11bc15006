"""A report as one self-contained HTML page, without scripts and requests. It reads on a phone, in the dark and on paper."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from . import phrasing, sections
from .lines import Line
from .metrics import NO_NUMBER, number, percent
from .plots import Point, Series, legend, log_plot
from .report import ParityReport, StepReport, Verdict
from .sections import Badge, Column, Section, same

STYLE = Path(__file__).with_name("page.css")
Y_LABEL = "error / standard deviation"
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def render(report: ParityReport, bundle: str) -> str:
    """bundle: its name on the page"""
    parts = [_verdict(report, bundle), _steps(report), _plots(report), _tokens(report)]
    parts += [_section(sections.weights(report)), _section(sections.controls(report)), _details(report)]
    parts += [_section(section, "apart") for section in sections.for_information(report)]
    parts.append(f'<footer class="{_mood(report)}">{_verdict_line(report)}</footer>')
    content = "\n".join(part for part in parts if part)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(f"{bundle}: {report.verdict}")}</title>
<style>
{STYLE.read_text("utf-8")}</style>
</head>
<body>
<main>
{content}
</main>
</body>
</html>
"""


def _verdict(report: ParityReport, bundle: str) -> str:
    mood = _mood(report)
    sign = {"bad": "✗", "warn": "!", "good": "✓"}[mood]
    reasons = "".join(f"<li>{escape(phrasing.sentence(reason))}</li>" for reason in phrasing.reasons(report))
    return f"""<header class="{mood}">
<span class="sign" aria-hidden="true">{sign}</span>
<h1>{_verdict_line(report)}</h1>
<p class="quiet">{escape(bundle)} · {escape(report.precision)}, fold {escape(report.fold)}</p>
<p>{escape(phrasing.summary(report, bundle))}</p>
{f"<ul>{reasons}</ul>" if reasons else ""}
</header>"""


def _mood(report: ParityReport) -> str:
    """The class of the style sheet that the verdict is shown in."""
    return {Verdict.DIFFERS: "bad", Verdict.NOT_RUN: "warn"}.get(report.verdict, "warn" if report.exit_code else "good")


def _verdict_line(report: ParityReport) -> str:
    """At the top and at the end, in the same words."""
    return (
        f"<strong>Verdict: {escape(report.verdict)}</strong> <small>({escape(phrasing.exit_meaning(report))})</small>"
    )


def _steps(report: ParityReport) -> str:
    """The steps from the reference to the deployed bundle."""
    start = f'<li><h3>reference</h3><p class="quiet">{escape(phrasing.sentence(report.reference))}</p></li>'
    note = "" if report.steps else "<p>No step was reached.</p>"
    cards = "".join(_card(step) for step in report.steps)
    return f"<section><h2>Steps</h2>{note}<ol class='steps'>{start}{cards}</ol></section>"


def _card(step: StepReport) -> str:
    parts = [
        f"<h3>{escape(step.name)} {_text(sections.step_verdict(step))}</h3>",
        f'<p class="quiet">{escape(phrasing.sentence(step.what))}</p>',
    ]
    if not step.ran:
        parts.append(f"<p>not run: {escape(step.why_not)}</p>")
    elif step.worst:
        case, line = step.worst
        width = min(100.0, 100 * line.used)
        parts += [
            f"<p>largest error: <strong>{phrasing.share_of_tolerance(line.used)}</strong></p>",
            f'<div class="bar{"" if line.ok else " bad"}"><span style="width:{width:.1f}%"></span></div>',
            f'<p class="quiet">at {escape(line.stage)}, prompt {escape(case)}</p>',
        ]
    return f"<li>{''.join(parts)}</li>"


def _plots(report: ParityReport) -> str:
    found = _blocks_figure(report) + _outputs_figure(report)
    return f'<section><h2>Errors</h2><div class="plots">{found}</div></section>' if found else ""


def _blocks_figure(report: ParityReport) -> str:
    blocks = list(dict.fromkeys((block.part, block.layer) for block in report.blocks))
    cases = list(dict.fromkeys(block.case for block in report.blocks))
    if not blocks:
        return ""
    series = []
    for case in cases:
        for style, step in enumerate(report.steps):
            points = tuple(
                Point(
                    x=blocks.index((line.part, line.layer)),
                    y=line.relative,
                    allowed=line.tolerance,
                    ok=line.ok,
                    tooltip=f"{phrasing.block(line.part, line.layer)} ({line.kind}) on {step.name}: {_number(line.relative)}",
                    hollow=line.kind == "skipped",
                )
                for line in report.blocks
                if (line.step, line.case) == (step.name, case)
            )
            if points:
                series.append(Series(step.name if len(cases) == 1 else f"{step.name}, {case}", style, points))
    title = f"Error after each block, prompt {phrasing.joined(cases)}"
    # "ts0" is layer 0 of the text stream, "0" that of a network with one row of blocks
    shown = ["".join(word[0] for word in part.split()) + str(layer) for part, layer in blocks]
    plot = log_plot(title, "layer", Y_LABEL, shown, series)
    return _figure(title, plot, legend(series, "kept", "skipped"))


def _outputs_figure(report: ParityReport) -> str:
    """For each fed token, the prompt that uses most of its tolerance."""
    lines = [(step, case, line) for step in report.steps for case, each in step.cases.items() for line in each]
    names = list(dict.fromkeys(line.stage for _, _, line in lines if _is_logits(line)))
    if not names:
        return ""
    series = []
    for style, step in enumerate(report.steps):
        points = []
        for x, name in enumerate(names):
            found = [(case, line) for of, case, line in lines if of is step and line.stage == name]
            if found:
                case, line = max(found, key=lambda each: each[1].used)
                tooltip = f"{name} on {step.name}, prompt {case}: {_number(line.relative)}"
                # in the unit of the relative error; None where that unit is unknown
                allowed = line.tolerance * line.relative / line.error if line.relative and line.error else None
                points.append(Point(x, line.relative, allowed, line.ok, tooltip))
        if points:
            series.append(Series(step.name, style, tuple(points)))
    title = "Error of the logits after each token, worst prompt"
    shown = [name.removeprefix("decode ") for name in names]
    return _figure(title, log_plot(title, "decode step", Y_LABEL, shown, series), legend(series))


def _number(value: float | None) -> str:
    return "no number" if value is None else number(value)


def _is_logits(line: Line) -> bool:
    return line.stage == "prefill" or line.stage.startswith("decode ")


def _figure(title: str, plot: str, key: str) -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{plot}{key}</figure>"


def _tokens(report: ParityReport) -> str:
    """Top-1 agreement, prompt by step."""
    ran = [step for step in report.steps if step.ran]
    found = [
        {case: line for case, lines in step.cases.items() for line in lines if line.stage == "tokens"} for step in ran
    ]
    cases = list(dict.fromkeys(case for lines in found for case in lines))
    if not cases:
        return ""
    rows = [_row([_cell(case, "head"), *(_agreement(lines.get(case)) for lines in found)]) for case in cases]
    columns = [Column(name, str) for name in ("prompt", *(step.name for step in ran))]
    note = (
        "The share of tokens that are the reference's. Another token is within tolerance where the reference prefers its "
        "own by at most twice the tolerance."
    )
    return _headed("Tokens", note, _wrapped(f"{_header(columns)}<tbody>{''.join(rows)}</tbody>", "grid"))


def _agreement(line: Line | None) -> str:
    if line is None:
        return _cell(NO_NUMBER)
    css = "bad" if not line.ok else "good" if line.top1 == 1 else "warn"
    note = ", DIFFERS" if not line.ok else "" if line.top1 == 1 else ", within tolerance"
    return f'<td class="{css}" title="{escape(line.note)}">{percent(line.top1)}{note}</td>'


def _details(report: ParityReport) -> str:
    """Every number, collapsed where nothing differs."""
    found = [_step_details(step) for step in report.steps if step.ran]
    if report.blocks:
        section, ok = sections.blocks(report.blocks), all(block.ok for block in report.blocks)
        heading = f"blocks: {phrasing.count(len(report.blocks), 'output')}"
        found.append(_folded(heading, same(ok), _table(section.page, section.rows)))
    if report.files:

        def badge(ok: bool) -> Badge:
            return Badge("as in the manifest" if ok else "DAMAGED", ok)

        columns = (Column("file", lambda file: file.name, "head"), Column("sha256", lambda file: badge(file.ok)))
        heading = f"files: {len(report.files)}"
        found.append(_folded(heading, badge(not report.damaged), _table(columns, report.files)))
    return f"<section><h2>All numbers</h2>{''.join(found)}</section>" if found else ""


def _step_details(step: StepReport) -> str:
    columns = sections.LINES_ON_PAGE
    outputs = phrasing.count(sum(map(len, step.cases.values())), "output")
    bodies = []
    for case, lines in step.cases.items():
        caption = f'<tr><th colspan="{len(columns)}" scope="rowgroup">prompt {escape(case)}</th></tr>'
        bodies.append(f"<tbody>{caption}{_rows(columns, lines)}</tbody>")
    note = f"{phrasing.sentence(step.what)}."
    if step.before:
        allowed = f"{number(step.tolerance)} of the reference's standard deviation is allowed"
        note += f" The step before is {step.before}: from it, {allowed} ({step.reason})."
    heading = f"{step.name}: {phrasing.count(len(step.cases), 'prompt')}, {outputs}"
    table = _wrapped(_header(columns) + "".join(bodies))
    return _folded(heading, same(step.ok), f'<p class="quiet">{escape(note)}</p>{table}')


def _section(section: Section | None, css: str = "") -> str:
    return _headed(section.heading, section.note, _table(section.page, section.rows), css) if section else ""


def _headed(heading: str, note: str, inner: str, css: str = "") -> str:
    return f'<section class="{css}"><h2>{escape(heading)}</h2><p>{escape(note)}</p>{inner}</section>'


def _folded(heading: str, verdict: Badge, inner: str) -> str:
    start = "<details>" if verdict.ok else "<details open>"
    return f"{start}<summary>{escape(heading)} {_text(verdict)}</summary>{inner}</details>"


def _table(columns: Sequence[Column], rows: Sequence[Any]) -> str:
    return _wrapped(f"{_header(columns)}<tbody>{_rows(columns, rows)}</tbody>")


def _wrapped(inner: str, css: str = "") -> str:
    return f'<div class="wide"><table class="{css}">{inner}</table></div>'


def _header(columns: Sequence[Column]) -> str:
    css = {True: ' class="number"', False: ""}
    cells = [f'<th scope="col"{css[column.kind == "number"]}>{escape(column.title)}</th>' for column in columns]
    return f"<thead>{_row(cells)}</thead>"


def _rows(columns: Sequence[Column], rows: Sequence[Any]) -> str:
    return "".join(_row([_cell(column.cell(row), column.kind) for column in columns]) for row in rows)


def _row(cells: Sequence[str]) -> str:
    return f"<tr>{''.join(cells)}</tr>"


def _cell(content: str | Badge, kind: str = "text") -> str:
    if kind == "head":
        return f'<th scope="row">{_text(content)}</th>'
    css = "" if kind == "text" else f' class="{kind}"'
    return f"<td{css}>{_text(content)}</td>"


def _text(content: str | Badge) -> str:
    if isinstance(content, str):
        return escape(content)
    css = {True: "good", False: "bad", None: "warn"}[content.ok]
    return f'<span class="badge {css}">{escape(content.text)}</span>'
