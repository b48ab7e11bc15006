"""A search as a picture: how the scores went, which attentions go first as more are skipped (the paper's Fig. 6), and the loss."""

from typing import Any, BinaryIO

import numpy as np

from ..system.pictures import INK, OTHER, OURS, STYLE, WIDTH, label_ends, require_matplotlib, save
from .report import SearchReport


def draw(report: SearchReport, file: BinaryIO) -> None:
    """Write the picture as SVG. Raises UserError without matplotlib."""
    matplotlib, sites = require_matplotlib(), report.bandit.sites
    heights = [1.4 + 0.2 * sites, 3.2] if report.bandit.events else [3.2]  # inches
    with matplotlib.rc_context(STYLE):
        figure = matplotlib.figure.Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
        *above, below = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        for each in above:
            _draw_scores(each.add_subplot(), report)
            _draw_ranking(below.add_subplot(1, 2, 1), report)
        _draw_losses(below.add_subplot(1, 1 + len(above), 1 + len(above)), report)
        save(figure, file, "svg")


def _draw_scores(axes: Any, report: SearchReport) -> None:
    """A line for each attention, the chosen ones in colour."""
    events, chosen = report.bandit.events, report.skipped or ()
    steps, ends = [event.step for event in events], []
    for site in sorted(range(report.bandit.sites), key=chosen.__contains__):
        scores = [event.scores[site] for event in events]
        color, word = (OURS, "skipped") if site in chosen else (OTHER, "kept")
        axes.plot(steps, scores, color=color, linewidth=1.4)
        ends.append((scores[-1], f"attention {site}, {word}", color))
    axes.set(title=f"scores: {len(chosen)} of {report.bandit.sites} attentions skipped", xlabel="step")
    axes.grid(alpha=0.3, axis="y")
    label_ends(axes, steps[-1], ends)


def _draw_ranking(axes: Any, report: SearchReport) -> None:
    """A row for each number of skipped attentions; that of the search is in colour."""
    from matplotlib.colors import ListedColormap

    sites, ranking, chosen = report.bandit.sites, report.bandit.ranking, report.options.count
    skipped = np.zeros((sites, sites))
    for count in range(1, sites + 1):
        skipped[count - 1, list(ranking[:count])] = 2 if count == chosen else 1
    colors = ListedColormap(["white", OTHER, OURS])
    axes.pcolormesh(np.arange(sites + 1) - 0.5, np.arange(sites + 1) + 0.5, skipped, cmap=colors, vmin=0, vmax=2)
    axes.set(title="which attentions go as more are skipped", xlabel="attention", ylabel="how many are skipped")
    axes.set_xticks(range(0, sites, 1 + sites // 16))
    axes.set_yticks(range(1, sites + 1, 1 + sites // 16))


def _draw_losses(axes: Any, report: SearchReport) -> None:
    axes.plot([loss.step for loss in report.losses], [loss.loss for loss in report.losses], linewidth=1.4, color=OURS)
    axes.set(title="loss, in nats", xlabel="step", yscale="log")
    axes.yaxis.set_major_formatter("{x:g}")
    if chosen := report.options.search_steps:
        axes.axvline(chosen, color=INK, linewidth=1)
        axes.annotate(" skips chosen", (chosen, 0.95), xycoords=("data", "axes fraction"))
    axes.grid(alpha=0.3, axis="y")
