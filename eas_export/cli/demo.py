"""eas-export demo"""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from ..core.plan import SkipPlan
from .output import PATH, Table, json_option, print_json, size, stdout_console
from .progress import make_progress

if TYPE_CHECKING:
    from ..demo.compare import Answered
    from ..demo.run import DemoResult

DEFAULT_OUT = Path("eas-demo")


@click.command()
@click.option(
    "--out", type=PATH, help=f"Folder for the checkpoint, its bundle, report and questions.  [default: {DEFAULT_OUT}]"
)
@click.option(
    "--train", "folder", type=PATH, help="Train the model from nothing instead, into this new folder; minutes."
)
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), help="Seed of --train.  [default: 0, which gave the shipped model]"
)
@json_option
def demo(out: Path | None, folder: Path | None, seed: int | None, as_json: bool) -> int:
    """Build and verify a small trained model, and let it answer questions.

    The model is a LLaVA that was trained on questions about handwritten digits. `eas-export search` found the attentions that it can do
    without and trained the adapters that replace them. Both models answer questions that neither was trained on, in PyTorch and as bundles.
    Takes under half a minute.
    """
    if folder:
        if out:
            raise click.UsageError("--out cannot go with --train, which names a folder of its own")
        return _train(folder, seed or 0, as_json)
    if seed is not None:
        raise click.UsageError("--seed needs --train")
    return _demo(out or DEFAULT_OUT, as_json)


def _demo(out: Path, as_json: bool) -> int:
    from ..demo.run import BUNDLE, run

    start = time.monotonic()
    result = run(out, make_progress(as_json))
    report, seconds = result.built.report, time.monotonic() - start
    said = {
        "bundle": str(out / BUNDLE),
        "report": report.model_dump(mode="json"),
        "answers": [each.model_dump(mode="json") for each in result.answers],
        "examples": [each.as_json() for each in result.examples],
        "answers_agree": result.answers_agree,
        "seconds": round(seconds, 1),
    }
    print_json(said, as_json)
    if not as_json:
        _show(result, out, seconds, stdout_console())
    return 0 if report.ok and result.answers_agree else 1


def _show(result: "DemoResult", out: Path, seconds: float, console: Console) -> None:
    from ..demo.pictures import beside
    from ..demo.run import BUNDLE, REPORT, SHEET, SHOWN, SOURCE
    from ..families.processing.image_processor import read_image

    before, after = result.built.accounts.before, result.built.accounts.after
    for example in result.examples:
        pictures = [read_image(path) for path in example.images]
        for line in beside(pictures, example.lines(), console.options.ascii_only):
            console.print(line)
        console.print()
    console.print(layers_line(result.built.plan))
    console.print(
        f"KV cache per token: {size(before.kv_bytes_per_token)} before, {size(after.kv_bytes_per_token)} after\n"
    )
    console.print(_answers_table(result.answers))
    console.print()
    agree = "as PyTorch does" if result.answers_agree else "NOT as PyTorch does"
    console.print(f"the bundles answer every question {agree}, token for token; {seconds:.0f} s")
    console.print(f"verdict: {result.built.report.verdict} ({out / REPORT})")
    console.print(f"the questions above as a picture: {out / SHEET}\n\nverify the bundle yourself, and ask it again:")
    click.echo(f"  eas-export verify {out / BUNDLE} --ckpt {out / SOURCE}")  # each in one line, to be copied
    click.echo(f"  eas-export run {out / BUNDLE} --inputs {out / SHOWN}")


def layers_line(plan: SkipPlan) -> str:
    """layers 0 . 2 3 .   (. = attention skipped: 2 of 5)"""
    marks = ["." if site in plan.skipped else str(site) for site in range(plan.sites)]
    return f"layers {' '.join(marks)}   (. = attention skipped: {len(plan.skipped)} of {plan.sites})"


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
            raise UserError("the folder exists", where=f"--train {folder}", fix="name a new folder")
        try:
            train.make_base(folder, seed, progress)
            report = train.make_eas(folder, seed, progress)
        except (KeyboardInterrupt, SystemExit) as error:
            error.add_note(f"delete {folder} and run the same command again: training starts anew")
            raise
    show(report, folder / "checkpoint", as_json)
    return 0


def _answers_table(answers: list["Answered"]) -> Table:
    rows = [
        [
            each.model,
            each.runs_on,
            f"{each.right:.1%}",
            "" if each.as_eas is None else f"{each.as_eas:.0%}",
            f"{each.weights_mb:.2f} MB",
            f"{each.questions / each.seconds:.0f}/s",
        ]
        for each in answers
    ]
    title = f"{answers[0].questions} questions that no model was trained on; speed in questions per second"
    return Table(title, ["model", "runs on", "right", "same as EAS", "weights", "speed"], rows, numbers=4)
