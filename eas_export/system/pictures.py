"""How pictures are drawn: matplotlib where it is installed, three colours, and SVG whose text is text.

An SVG has a white background of its own, so that it can be read on a dark page, too, and is the same each time it is drawn.
"""

from collections.abc import Sequence
from statistics import mean
from typing import Any, BinaryIO

from ..core.errors import UserError
from .packages import install_command

OURS, BOUND, OTHER, INK = "#0b62c4", "#c2571a", "#8a9099", "#24292f"
WIDTH = 9.0  # inches: on a page of 800 pixels, text of 10 points is 12 pixels high
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "eas-export",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


def require_matplotlib() -> Any:
    """Import matplotlib. Raises UserError where it is not installed."""
    try:
        import matplotlib.figure
    except ImportError:
        fix = install_command("search", "matplotlib")
        raise UserError("matplotlib is not installed", where="plots", fix=fix) from None
    return matplotlib


def save(figure: Any, file: BinaryIO, form: str) -> None:
    """Write a figure as png or svg."""
    figure.savefig(file, format=form, dpi=150, metadata=dict.fromkeys(("Date", "Creator")) if form == "svg" else None)


def label_ends(axes: Any, x: float, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write (y, text, colour) of each line's end beside it, right of x, moved apart where they would overlap."""
    axes.figure.canvas.figure.draw_without_rendering()  # lays it out: the height in pixels is known
    ends, (low, high) = sorted(ends), axes.get_ylim()
    text_height = 13 / 72 * axes.figure.dpi  # pixels
    places = spaced([y for y, _, _ in ends], text_height * (high - low) / axes.get_window_extent().height)
    for (y, text, color), place in zip(ends, places):
        line = dict(arrowstyle="-", color=color, linewidth=0.6, shrinkA=0, shrinkB=2, relpos=(0, 0.5))
        place, coordinates = (1.03, place), ("axes fraction", "data")
        style = dict(color=INK if color == OTHER else color, va="center", annotation_clip=False)
        axes.annotate(text, (x, y), place, textcoords=coordinates, arrowprops=line, **style)


def spaced(values: Sequence[float], gap: float) -> list[float]:
    """Ascending values, moved as little as it takes for them to be a gap apart."""
    groups: list[list[float]] = []  # of those that touch: each less the gaps below it
    for number, value in enumerate(values):
        groups.append([value - number * gap])
        while len(groups) > 1 and mean(groups[-2]) > mean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    loose = [mean(group) for group in groups for _ in group]
    return [value + number * gap for number, value in enumerate(loose)]
