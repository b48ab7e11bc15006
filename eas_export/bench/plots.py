"""A report as a picture: tokens per second over rows, and the time of each part."""

from pathlib import Path
from typing import Any, BinaryIO

from ..core.errors import UserError
from ..system.files import require_writable
from .report import BenchReport, Result
from .stages import ANSWER, FIRST, FOLD, FULL, PREFILL, VISION

FORMATS = ("png", "svg")
MARKERS = "osD^vP*Xhp<>"  # beside colours: a series has one of its own
PARTS = (VISION, PREFILL, FOLD, FIRST, FULL, ANSWER)


def require_drawable(path: Path, bundle: Path) -> None:
    """Raise UserError, before any work, where nothing can be drawn there."""
    if path.suffix.lower().removeprefix(".") not in FORMATS or path.resolve().is_relative_to(bundle.resolve()):
        fix = "give a name that ends in .png or .svg, outside the bundle"
        raise UserError("a plot does not go there", where=f"--plot {path}", fix=fix)
    _matplotlib()
    require_writable(path)


def draw(report: BenchReport, file: BinaryIO, form: str) -> None:
    """Write the picture. form: png or svg. Raises UserError without matplotlib."""
    figure_module = _matplotlib()
    ran = {name: each for name, each in report.contestants.items() if not each.why_not}
    height = max(4.5, 0.32 * len(ran) * 1.4 + 2)
    figure = figure_module.Figure(figsize=(13, height), layout="constrained")
    over_rows, of_parts = figure.subplots(1, 2, width_ratios=(1, 1.25))
    _draw_rates(over_rows, ran)
    _draw_parts(of_parts, ran)
    figure.suptitle(
        f"{report.bundle}, {report.precision}: {report.place.gpu or report.place.cpu}, {report.place.cores} cores"
    )
    figure.savefig(file, format=form, dpi=150, metadata={"Date": None} if form == "svg" else None)


def _draw_rates(axes: Any, ran: dict[str, Result]) -> None:
    """With the 10th to 90th percentile of the pieces as a bar."""
    for number, (name, each) in enumerate(ran.items()):
        rows = [steady.rows for steady in each.steady]
        rates = [steady.tokens_per_second for steady in each.steady]
        middle = [rate.p50 for rate in rates]
        around = [[rate.p50 - rate.p10 for rate in rates], [rate.p90 - rate.p50 for rate in rates]]
        if rows:
            axes.errorbar(rows, middle, around, label=name, marker=MARKERS[number % len(MARKERS)], capsize=2)
    axes.set(xlabel="rows at once", ylabel="per second, all rows together", xscale="log", yscale="log")
    axes.set_xticks(ticks := sorted({steady.rows for each in ran.values() for steady in each.steady}), map(str, ticks))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def _draw_parts(axes: Any, ran: dict[str, Result]) -> None:
    """A row of bars for each baseline."""
    steps = {name: each.step for name, each in ran.items()}
    parts = [part for part in PARTS if any(part in each.parts for each in ran.values())]
    width = 0.85 / (len(parts) + 1)
    for number, part in enumerate([*parts, "a steady step"]):
        timed = {
            name: steps.get(name) if part == "a steady step" else each.parts.get(part) for name, each in ran.items()
        }
        places = [place + number * width for place, (_, timing) in enumerate(timed.items()) if timing]
        axes.barh(places, [timing.seconds.p50 * 1e3 for timing in timed.values() if timing], width, label=part)
    axes.set(xlabel="milliseconds, one row", xscale="log")
    axes.set_yticks([place + 0.4 for place in range(len(ran))], list(ran))
    axes.invert_yaxis()
    axes.grid(alpha=0.3, axis="x")
    axes.legend(fontsize="small")


def _matplotlib() -> Any:
    try:
        from matplotlib import figure
    except ImportError:
        raise UserError("it takes matplotlib", where="--plot", fix="pip install matplotlib") from None
    return figure
