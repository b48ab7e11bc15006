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
        raise click.BadParameter(f"{value!r} is not a list of numbers like 1,2,4,8") from None


def _names(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...] | None:
    return tuple(name for part in value for name in part.split(",") if name) or None


def _systems(context: click.Context, parameter: click.Parameter, value: tuple[str, ...]) -> dict[str, Path]:
    given: dict[str, Path] = {}
    for part in value:
        name, equals, path = part.partition("=")
        if not (name and equals and path):
            raise click.BadParameter(f"{part!r} is not NAME=PATH, such as das=das-data/")
        if name in given:
            raise click.BadParameter(f"{name} is given twice")
        given[name] = Path(path)
    return given


@click.command()
@click.argument("bundle", type=PATH)
@click.option(
    "--ckpt", type=PATH, help="The checkpoint that BUNDLE was built from, which baselines with every attention need."
)
@path_options
@click.option(
    "--against",
    multiple=True,
    callback=_names,
    metavar="NAMES",
    help="Comma-separated baselines.  [default: all that can run here]",
)
@click.option(
    "--against-ckpt",
    multiple=True,
    callback=_systems,
    metavar="NAME=PATH",
    help="A checkpoint, or a bundle, of a system that EAS is compared with: lavin-folded, lavin-unfolded, das or lora. It is built as BUNDLE was and "
    "timed in the same rounds; repeat for several.",
)
@click.option("--prompt-tokens", type=int, help="Tokens of each prompt.  [default: 64]")
@click.option("--new-tokens", type=int, help="Tokens of each answer.  [default: 32]")
@click.option(
    "--batch", "batches", default="1,2,4,8", show_default=True, callback=_numbers, help="Batch sizes of a step."
)
@click.option(
    "--rounds",
    type=int,
    default=20,
    show_default=True,
    help="Trials of each baseline for a step; other parts get fewer.",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    help="Where baselines run.  [default: cuda where PyTorch sees a GPU]",
)
@click.option("--plot", type=PATH, help="Draw the report, too: a .png or .svg file.")
@click.option(
    "--scratch",
    type=PATH,
    help="Folder for the baselines' files, which are removed in the end.  [default: beside BUNDLE]",
)
@json_option
def bench(bundle: Path, plot: Path | None, as_json: bool, **options: Any) -> int:
    """Time a bundle against its baselines, and against this machine's limit.

    Each baseline has its own process and runs one trial in each round, so that what slows the machine down slows all. Ratios are medians
    over rounds, with the 10th and 90th percentile. Without --ckpt only baselines that share the bundle's weights are timed.

    \b
    eas-export bench lavin-7b.bundle --ckpt data/ --plot lavin.png
    eas-export bench lavin-7b.bundle --against pytorch-published --batch 1
    eas-export bench lavin-7b.bundle --against-ckpt das=das-data/
    """
    from ..bench.run import bench as measure
    from ..system.files import written_whole
    from .bench_report import print_report

    if plot:
        from ..bench.plots import draw, require_drawable

        require_drawable(plot, bundle)
    report = measure(bundle, progress=make_progress(as_json), **options)
    print_json(report.model_dump(mode="json"), as_json)
    if not as_json:
        print_report(report, stdout_console())
    if plot:
        with written_whole(plot) as file:
            draw(report, file, plot.suffix.lower().removeprefix("."))
    return 0
