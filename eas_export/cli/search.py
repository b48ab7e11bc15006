"""eas-export search"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .output import PATH, Table, json_option, print_json, stdout_console
from .progress import make_progress
from .sources import image_root_option, tokenizer_option

if TYPE_CHECKING:
    from ..search.report import SearchReport

PLOT = "search.svg"


@click.command()
@click.option("--ckpt", type=PATH, required=True, help="A folder of a LLaVA or a text decoder, with every attention.")
@click.option("--data", type=PATH, required=True, help="Questions with answers, one JSON object per line.")
@image_root_option
@click.option("--out", type=PATH, required=True, help="The new folder for the checkpoint, search.json and search.svg.")
@click.option("--count", type=int, help="How many attentions to skip; the bandit finds out which.")
@click.option("--skip", metavar="LIST", help="Skip these instead, like 20-31: no search, only the adapters' training.")
@click.option("--vision", type=PATH, help="The CLIP folder, if it is not inside --ckpt.")
@tokenizer_option
@click.option("--policy", help="The bandit's update rule: lavin-code, meter-code or paper.  [default: lavin-code]")
@click.option("--steps", type=int, help="Training steps of the search, with random skips.  [default: 2000]")
@click.option("--warm-up", type=int, help="Steps of the search before the bandit's first comparison.  [default: 500]")
@click.option("--every", type=int, help="Steps between two comparisons.  [default: 10]")
@click.option("--candidates", type=int, help="Subnetworks in one comparison.  [default: 3]")
@click.option("--tune-steps", type=int, help="Training steps with the chosen skips.  [default: 2000]")
@click.option("--batch", type=int, help="Questions in a training batch.  [default: 16]")
@click.option("--learning-rate", type=float, help="Peak learning rate of AdamW.  [default: 0.001]")
@click.option("--kept-rank", type=int, help="Rank of new adapters before attentions, an even number.  [default: 128]")
@click.option(
    "--skipped-rank", type=int, help="Rank of new adapters in place of attentions, an even number.  [default: 128]"
)
@click.option("--held-out", type=float, help="Fraction of the questions held out from training.  [default: 0.1]")
@click.option("--precision", help="dtype of weights and activations: fp32 or bf16.  [default: fp32]")
@click.option("--seed", type=int, help="Seed of all random choices.  [default: 0]")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Where to train.  [default: cuda if there is a GPU]")
@json_option
def search(ckpt: Path, data: Path, out: Path, as_json: bool, **options: Any) -> int:
    """Find the attentions that a model can do without, and train the adapters that stand in for them.

    Every layer gets both adapters. Training skips random attentions, and every few steps a bandit compares some subnetworks. The one
    that it chooses is trained further and written as a checkpoint for `build`. Start an interrupted search again to resume it.

    \b
    eas-export search --ckpt llava/ --data train.jsonl --count 12 --out llava-eas
    eas-export build --ckpt llava-eas --out llava-eas.bundle
    """
    from ..search import search as find
    from ..search.plots import require_matplotlib

    require_matplotlib()
    given = {name: value for name, value in options.items() if value is not None}
    report = find(ckpt, data, out, progress=make_progress(as_json), **given)
    show(report, out, as_json)
    return 0


def show(report: "SearchReport", out: Path, as_json: bool) -> None:
    """Plot the search and print its result."""
    from ..search.plots import draw
    from ..system.files import written_whole

    with written_whole(out / PLOT) as file:
        draw(report, file)
    print_json(report.model_dump(mode="json"), as_json)
    if as_json:
        return
    console, bandit, losses = stdout_console(), report.bandit, report.held_out
    rows = [
        ["skipped attentions", f"{len(report.skipped)} of {bandit.sites}: {', '.join(map(str, report.skipped))}"],
        ["comparisons by the bandit", str(len(bandit.events))],
        ["trained parameters", f"{report.trained_parameters:,}"],
        ["held-out loss with every attention, untrained", f"{losses.untrained:.4f}"],
        ["held-out loss with the chosen skips, before tuning", f"{losses.chosen:.4f}"],
        ["held-out loss after tuning", f"{losses.tuned:.4f}"],
        ["time", f"{report.seconds:.0f} s"],
    ]
    console.print(Table("search", ["", ""], rows))
    console.print(f"the checkpoint, {PLOT} and search.json are in {out}")
