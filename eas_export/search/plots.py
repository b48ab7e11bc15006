"""A search as a picture: how the preferences went, and which attentions go first as more are skipped (the paper's Fig. 6)."""

from typing import Any, BinaryIO

import numpy as np

from ..core.errors import UserError
from .report import SearchReport


def require_matplotlib() -> Any:
    """Raises UserError where there is none."""
    try:
        from matplotlib import figure
    except ImportError:
        raise UserError("it takes matplotlib", where="search", fix="pip install matplotlib") from None
    return figure


def draw(report: SearchReport, file: BinaryIO) -> None:
    """Write the picture as SVG."""
    panels = [_draw_scores, _draw_ranking, _draw_losses] if report.bandit.events else [_draw_losses]
    figure = require_matplotlib().Figure(figsize=(4.4 * len(panels), 4.5), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        panel(axes, report)
    figure.suptitle(f"{len(report.skipped or ())} of {report.bandit.sites} attentions skipped")
    figure.savefig(file, format="svg", metadata={"Date": None})


def _draw_scores(axes: Any, report: SearchReport) -> None:
    events, chosen = report.bandit.events, set(report.skipped or ())
    steps = [event.step for event in events]
    for site in range(report.bandit.sites):
        scores = [event.scores[site] for event in events]
        style = dict(color="C3", alpha=0.9) if site in chosen else dict(color="C7", alpha=0.5)
        axes.plot(steps, scores, linewidth=1, **style)
        axes.annotate(str(site), (steps[-1], scores[-1]), fontsize="x-small", color=style["color"])
    axes.set(title="preferences (red: skipped)", xlabel="step", ylabel="score")
    axes.grid(alpha=0.3)


def _draw_ranking(axes: Any, report: SearchReport) -> None:
    """A row for each number of skipped attentions."""
    sites, ranking = report.bandit.sites, report.bandit.ranking
    skipped = np.zeros((sites, sites))
    for count in range(1, sites + 1):
        skipped[count - 1, list(ranking[:count])] = 1
    axes.imshow(
        skipped,
        cmap="Reds",
        vmin=0,
        vmax=1.4,
        aspect="auto",
        origin="lower",
        extent=(-0.5, sites - 0.5, 0.5, sites + 0.5),
    )
    axes.axhline(report.options.count, color="black", linewidth=1)
    axes.set(title="skipped, as more are", xlabel="attention", ylabel="how many are skipped")


def _draw_losses(axes: Any, report: SearchReport) -> None:
    axes.plot([loss.step for loss in report.losses], [loss.loss for loss in report.losses], linewidth=1)
    axes.axvline(report.options.search_steps, color="black", linewidth=1)
    axes.set(title="loss (line: skips chosen)", xlabel="step", ylabel="nats")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
