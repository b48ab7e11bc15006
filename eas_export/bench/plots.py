"""A report as a picture: how long a step, a prefill and an answer take, and tokens per second over rows."""

from pathlib import Path
from typing import Any, BinaryIO

from ..core.errors import UserError
from ..system.files import require_writable
from ..system.pictures import BOUND, INK, OTHER, OURS, STYLE, WIDTH, label_ends, require_matplotlib, save
from .report import BenchReport, Result
from .stages import ANSWER, PREFILL
from .timing import Timing, duration

FORMATS = ("png", "svg")
COLORS = {"ours": OURS, "bound": BOUND, "other": OTHER}


def require_drawable(path: Path, bundle: Path) -> None:
    """Raise UserError, before any work, where nothing can be drawn there."""
    if path.suffix.lower().removeprefix(".") not in FORMATS or path.resolve().is_relative_to(bundle.resolve()):
        fix = "give a name that ends in .png or .svg, outside the bundle"
        raise UserError("--plot is not a .png or .svg file outside the bundle", where=f"--plot {path}", fix=fix)
    require_matplotlib()
    require_writable(path)


def draw(report: BenchReport, file: BinaryIO, form: str) -> None:
    """Write the picture. form: png or svg. Raises UserError without matplotlib."""
    matplotlib, work = require_matplotlib(), report.workload
    timed = {name: each for name, each in report.by_step().items() if each.step}
    several = {name: each for name, each in timed.items() if len(each.steady) > 1}
    columns = {
        "a step of one row": {name: each.step for name, each in timed.items()},
        f"prefill of {work.prompt_tokens} tokens": {name: each.parts.get(PREFILL) for name, each in timed.items()},
        f"answer of {work.new_tokens} tokens": {name: each.parts.get(ANSWER) for name, each in timed.items()},
    }
    columns = {title: column for title, column in columns.items() if any(column.values())}
    heights = [0.28 * len(timed) + 0.9, *([3.9] if several else [])]  # inches
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
        above, *below = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        for number, (title, column) in enumerate(columns.items()):
            _draw_times(above.add_subplot(1, len(columns), number + 1), title, column, report, named=number == 0)
        _draw_key(above, timed, report)
        for each in below:
            _draw_rates(each.add_subplot(), several, report)
        save(figure, file, form)


def _draw_key(figure: Any, timed: dict[str, Result], report: BenchReport) -> None:
    """What was measured where, and what the colours mean."""
    from matplotlib.patches import Patch

    words = {"ours": "the exported model", "bound": "the same graphs without adapters", "other": "others"}
    handles = [Patch(color=COLORS[role], label=text) for role, text in words.items() if role in map(report.role, timed)]
    title = f"{report.bundle}, {report.precision}: {report.place.gpu or report.place.cpu}, {report.place.cores} cores"
    style = dict(title=title, alignment="left", ncols=len(words), frameon=False, handlelength=0.9)
    figure.legend(handles=handles, loc="outside upper left", **style).get_title().set_weight("bold")


def _draw_times(axes: Any, title: str, column: dict[str, Timing | None], report: BenchReport, named: bool) -> None:
    """A bar for each baseline, the quickest step on top."""
    seconds = [timing.seconds.p50 if timing else 0.0 for timing in column.values()]
    colors = [COLORS[report.role(name)] for name in column]
    bars = axes.barh(range(len(column)), seconds, 0.72, color=colors)
    axes.bar_label(bars, [duration(each) if each else "" for each in seconds], padding=3)
    axes.set(title=title, xlim=(0, 1.45 * max(seconds)), ylim=(len(column) - 0.4, -0.6), xticks=[])
    axes.set_yticks(range(len(column)), list(column) if named else [])
    axes.tick_params(length=0)
    axes.spines["bottom"].set_visible(False)
    for label, color in zip(axes.get_yticklabels(), colors):
        label.set(color=INK if color == OTHER else color, weight="bold" if color == OURS else "normal")


def _draw_rates(axes: Any, several: dict[str, Result], report: BenchReport) -> None:
    """A line for each baseline that takes several rows, with the 10th to 90th percentile."""
    ends, batches = [], sorted({steady.rows for each in several.values() for steady in each.steady})
    for name, each in several.items():
        rows, rates = zip(*((steady.rows, steady.tokens_per_second) for steady in each.steady))
        middle = [rate.p50 for rate in rates]
        around = [[rate.p50 - rate.p10 for rate in rates], [rate.p90 - rate.p50 for rate in rates]]
        color = COLORS[report.role(name)]
        axes.errorbar(rows, middle, around, color=color, marker="o", markersize=4, elinewidth=0.8, linewidth=1.6)
        ends.append((middle[-1], f"{name} {middle[-1]:.3g}", color))
    unit = "tokens" if any(PREFILL in each.parts for each in several.values()) else "passes"
    axes.set(title=f"{unit} per second, all rows together", xlabel="rows at once (batch)", xscale="log", ylim=(0, None))
    axes.minorticks_off()
    axes.set_xticks(batches, list(map(str, batches)))
    axes.grid(alpha=0.3, axis="y")
    label_ends(axes, batches[-1], ends)
