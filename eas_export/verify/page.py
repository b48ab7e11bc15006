"""A report as one HTML page that needs nothing else: no script, no request. It reads on a phone, in the dark and on paper."""

from html import escape
from pathlib import Path

from . import tables, words
from .metrics import Line
from .plots import Point, Series, legend, log_plot
from .report import ParityReport, StepReport, Verdict

STYLE = Path(__file__).with_name("page.css")
Y_LABEL = "error / standard deviation"
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def render(report: ParityReport, bundle: str) -> str:
    """bundle: what the page calls it"""
    title = f"{bundle}: {report.verdict}"
    parts = [
        _verdict(report, bundle),
        _steps(report),
        _plots(report),
        tables.tokens(report),
        tables.accuracy(report),
        tables.controls(report),
        tables.shortcuts(report),
        tables.details(report),
    ]
    content = "\n".join(part for part in parts if part)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)}</title>
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
    mood = {Verdict.DIFFERS: "bad", Verdict.NOT_RUN: "warn"}.get(report.verdict, "warn" if report.exit_code else "good")
    sign = {"bad": "✗", "warn": "!", "good": "✓"}[mood]
    parts = [f"<h1>{escape(report.verdict.capitalize())}</h1>", f"<p>{escape(words.summary(report, bundle))}</p>"]
    if report.damaged:
        names = "".join(f"<li>{escape(name)}: its sha256 is not the manifest's</li>" for name in report.damaged)
        parts.append(f"<p><strong>Damaged files</strong></p><ul>{names}</ul>")
    if divergence := report.first_divergence:
        own = words.own_error(divergence)
        said = escape(words.place(divergence)) + (f"; {escape(own)}" if own else "")
        parts.append(f"<p><strong>First diverges at</strong> {said}.</p>")
    if report.missing:
        names = "".join(f"<li>{escape(each)}</li>" for each in words.missing(report))
        parts.append(f"<p><strong>Required and not run</strong></p><ul>{names}</ul>")
    facts = f"{report.precision}, fold {report.fold}"
    return f"""<header class="{mood}">
<span class="sign" aria-hidden="true">{sign}</span>
<p class="quiet">Parity of {escape(bundle)} · {escape(facts)}</p>
{"".join(parts)}
</header>"""


def _steps(report: ParityReport) -> str:
    """The way from the reference to what is deployed."""
    start = f'<li><h3>reference</h3><p class="quiet">{escape(words.sentence(report.reference))}</p></li>'
    note = "" if report.steps else "<p>No step was reached.</p>"
    cards = "".join(_card(step) for step in report.steps)
    return f"<section><h2>Steps</h2>{note}<ol class='steps'>{start}{cards}</ol></section>"


def _card(step: StepReport) -> str:
    verdict = words.step_verdict(step)
    parts = [
        f"<h3>{escape(step.name)} {tables.badge(verdict, step.ok if step.ran else None)}</h3>",
        f'<p class="quiet">{escape(words.sentence(step.what))}</p>',
    ]
    if not step.ran:
        parts.append(f"<p>not run: {escape(step.why_not)}</p>")
    elif step.worst:
        case, line = step.worst
        width = min(100.0, 100 * line.used)
        parts += [
            f"<p>largest error: <strong>{words.share_of_tolerance(line.used)}</strong></p>",
            f'<div class="bar{"" if line.ok else " bad"}"><span style="width:{width:.1f}%"></span></div>',
            f'<p class="quiet">at {escape(line.stage)}, prompt {escape(case)}</p>',
        ]
    return f"<li>{''.join(parts)}</li>"


def _plots(report: ParityReport) -> str:
    figures = [_blocks_figure(report), _outputs_figure(report)]
    found = "".join(figure for figure in figures if figure)
    return f'<section><h2>Errors</h2><div class="plots">{found}</div></section>' if found else ""


def _blocks_figure(report: ParityReport) -> str:
    blocks = list(dict.fromkeys((block.part, block.layer) for block in report.blocks))
    cases = list(dict.fromkeys(block.case for block in report.blocks))
    if not blocks:
        return ""
    series = []
    for case in cases:
        for style, step in enumerate(report.steps):
            lines = [block for block in report.blocks if (block.step, block.case) == (step.name, case)]
            points = tuple(
                Point(
                    x=blocks.index((line.part, line.layer)),
                    y=line.relative,
                    allowed=line.tolerance,
                    ok=line.ok,
                    said=f"{words.block(line.part, line.layer)} ({line.kind}) on {step.name}: {_number(line.relative)}",
                    hollow=line.kind == "skipped",
                )
                for line in lines
            )
            if points:
                series.append(Series(step.name if len(cases) == 1 else f"{step.name}, {case}", style, points))
    title = f"Error after each block, prompt {words.joined(cases)}"
    # "ts0" is layer 0 of the text stream, "0" that of a network with one row of blocks
    shown = ["".join(word[0] for word in part.split()) + str(layer) for part, layer in blocks]
    plot = log_plot(title, "layer", Y_LABEL, shown, series)
    return _figure(title, plot, legend(series, "attention kept", "attention skipped"))


def _outputs_figure(report: ParityReport) -> str:
    """Of each fed token, the prompt that takes most of what it is allowed."""
    names = list(
        dict.fromkeys(
            line.stage for step in report.steps for lines in step.cases.values() for line in lines if _is_logits(line)
        )
    )
    if not names:
        return ""
    series = []
    for style, step in enumerate(report.steps):
        points = []
        for x, name in enumerate(names):
            found = [(case, line) for case, lines in step.cases.items() for line in lines if line.stage == name]
            if found:
                case, line = max(found, key=lambda each: each[1].used)
                said = f"{name} on {step.name}, prompt {case}: {_number(line.relative)}"
                points.append(Point(x, line.relative, _relative_tolerance(line), line.ok, said))
        if points:
            series.append(Series(step.name, style, tuple(points)))
    title = "Error of the logits after each token, worst prompt"
    shown = [name.removeprefix("decode ") for name in names]
    return _figure(title, log_plot(title, "decode step", Y_LABEL, shown, series), legend(series))


def _number(value: float | None) -> str:
    return "no number" if value is None else words.number(value)


def _is_logits(line: Line) -> bool:
    return line.stage == "prefill" or line.stage.startswith("decode ")


def _relative_tolerance(line: Line) -> float | None:
    """In the unit of its relative error; None where the error says nothing about that unit."""
    return line.tolerance * line.relative / line.error if line.relative and line.error else None


def _figure(title: str, plot: str, key: str) -> str:
    return f"<figure><figcaption>{escape(title)}</figcaption>{plot}{key}</figure>"
