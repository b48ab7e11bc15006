"""eas-export bench"""

from pathlib import Path
from typing import Any

import click

from .output import PATH, json_option, print_json, stdout_console
from .progress import make_progress
from .sources import path_options


def _numbers(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of numbers: write them like 1,2,4,8") from None


def _names(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...] | None:
    return tuple(name for part in value for name in part.split(",") if name) or None


@click.command()
@click.argument("bundle", type=PATH)
@click.option("--ckpt", type=PATH, help="The checkpoint it was built from: for baselines that keep every attention.")
@path_options
@click.option(
    "--against",
    multiple=True,
    callback=_names,
    metavar="NAMES",
    help="Whom to compare with, with commas between them. Default: everyone who can be run.",
)
@click.option("--prompt-tokens", type=int, help="Of each prompt.  [default: 64]")
@click.option("--new-tokens", type=int, help="Of an answer.  [default: 32]")
@click.option("--batch", "batches", default="1,2,4,8", show_default=True, callback=_numbers, help="Rows of a step.")
@click.option(
    "--rounds", type=int, default=20, show_default=True, help="Turns of everyone for a step; other parts get fewer."
)
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), help="Where everyone runs.  [default: cuda where there is one]"
)
@click.option("--plot", type=PATH, help="Draw it, too: a file that ends in .png or .svg.")
@click.option(
    "--scratch", type=PATH, help="Where files go that only the comparison needs.  [default: beside the bundle]"
)
@json_option
def bench(bundle: Path, plot: Path | None, as_json: bool, **options: Any) -> int:
    """Time a bundle against what would be run otherwise, and against this machine's limit.

    Everyone has a process, and in each round everyone takes a turn: what slows the machine down slows all. Ratios are medians over rounds,
    with the 10th and 90th percentile. With --ckpt the comparison has everyone; without it, who can do with the bundle's own weights.

    \b
    eas-export bench lavin-7b.bundle --ckpt data/ --plot lavin.png
    eas-export bench lavin-7b.bundle --against pytorch-published,onnxruntime-floor --batch 1
    """
    from ..bench.run import bench as measure
    from ..system.files import written_whole
    from .bench_report import print_report

    if plot:
        from ..bench.plots import draw, require_drawable

        require_drawable(plot, bundle)
    report = measure(bundle, progress=make_progress(as_json), **options)
    if as_json:
        print_json(report.model_dump(mode="json"))
    else:
        print_report(report, stdout_console())
    if plot:
        with written_whole(plot) as file:
            draw(report, file, plot.suffix.lower().removeprefix("."))
    return 0
