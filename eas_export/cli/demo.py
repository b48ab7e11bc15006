"""eas-export demo"""

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .output import PATH, json_option, print_json, stdout_console, table
from .progress import make_progress

if TYPE_CHECKING:
    from ..demo.compare import Answered


@click.command()
@click.option("--out", type=PATH, help="Keep the bundle there. Default: a temporary folder.")
@click.option("--force", is_flag=True, help="Replace a bundle that is there.")
@click.option("--train", "folder", type=PATH, help="Train it anew instead, into this new folder; minutes.")
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), help="Of the training. Default: 0, which made what comes along."
)
@json_option
def demo(out: Path | None, force: bool, folder: Path | None, seed: int | None, as_json: bool) -> int:
    """Build and verify the small trained model that comes along, and let it answer questions.

    A LLaVA that was trained on questions about handwritten digits, and the LLaVA-EAS that `eas-export search` made of it. Questions that
    neither was trained on are answered by both in PyTorch, and by the second as bundles. Takes a minute or two.
    """
    if folder:
        if out or force:
            raise click.UsageError("--out and --force go with the bundle, which --train does not build")
        return _train(folder, seed or 0, as_json)
    if seed is not None:
        raise click.UsageError("--seed goes with --train")
    with tempfile.TemporaryDirectory() as scratch:
        return _demo(out or Path(scratch) / "demo.bundle", Path(scratch), force, as_json, keep=out is not None)


def _demo(out: Path, scratch: Path, force: bool, as_json: bool, keep: bool) -> int:
    from ..demo import BASE, CHECKPOINT, QUESTIONS, RECIPE
    from ..demo.compare import answer, entrants_of
    from ..families import load_checkpoint
    from ..families.contract import Sources
    from ..pipeline import build
    from .inspect import accounts_table, model_table
    from .report import print_report

    start, progress = time.monotonic(), make_progress(as_json)
    result = build(CHECKPOINT, out, recipe=RECIPE, force=force, progress=progress)
    lowrank = build(
        CHECKPOINT,
        scratch / "lowrank.bundle",
        recipe=RECIPE,
        fold="lowrank",
        max_batch=32,
        base=out,
        verify=False,
        progress=progress,
    )
    base, eas = (load_checkpoint(Sources(folder)) for folder in (BASE, CHECKPOINT))
    answered = answer(entrants_of(base, eas, [result.bundle, lowrank.bundle]), QUESTIONS, eas, progress)
    agree = all(each.as_eas in (None, 1.0) for each in answered)
    seconds = time.monotonic() - start
    code = 0 if result.report.ok and agree else 1
    if as_json:
        print_json(
            {
                "bundle": str(out) if keep else None,
                "report": result.report.model_dump(mode="json"),
                "answers": [each.model_dump(mode="json") for each in answered],
                "answers_agree": agree,
                "seconds": round(seconds, 1),
            }
        )
        return code
    console = stdout_console()
    console.print(model_table(result.bundle.manifest.config, result.plan))
    console.print(accounts_table(result.accounts))
    print_report(result.report, console)
    console.print(_answers_table(answered))
    console.print(
        f"{'the bundles say what PyTorch says' if agree else 'the bundles do NOT say what PyTorch says'}; {seconds:.0f} s"
        + (f"; the bundle is at {out}" if keep else "; pass --out DIR to keep the bundle")
    )
    return code


def _train(folder: Path, seed: int, as_json: bool) -> int:
    from ..core.errors import UserError
    from ..demo import digits, train
    from ..search.plots import require_matplotlib
    from ..system.files import translated
    from .search import show

    require_matplotlib()
    digits.load()
    progress = make_progress(as_json)
    with translated(folder):
        if folder.exists():
            raise UserError("it exists", where=f"--train {folder}", fix="name a new folder")
        train.make_base(folder, seed, progress)
        report = train.make_eas(folder, seed, progress)
    show(report, folder / "checkpoint", as_json)
    return 0


def _answers_table(answered: list["Answered"]):
    rows = [
        [
            each.model,
            each.runs_on,
            f"{each.right:.1%}",
            "" if each.as_eas is None else f"{each.as_eas:.1%}",
            f"{each.weights_mb:.2f} MB",
            f"{each.questions / each.seconds:.0f}/s, {each.together} at once",
        ]
        for each in answered
    ]
    title = f"{answered[0].questions} questions that no model was trained on"
    return table(title, ["model", "runs on", "right", "as EAS in PyTorch", "weights", "speed"], rows)
