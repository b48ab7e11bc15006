"""eas-export demo"""

import tempfile
import time
from pathlib import Path

import click

from .output import PATH, json_option, print_json, stdout_console, table
from .progress import make_progress

STEPS = 8


@click.command()
@click.option("--out", type=PATH, help="Keep the bundle there. Default: a temporary folder.")
@click.option("--force", is_flag=True, help="Replace a bundle that is there.")
@json_option
def demo(out: Path | None, force: bool, as_json: bool) -> int:
    """Build, verify and run the small model that comes along.

    A LaVIN-EAS checkpoint in the published format with random weights: 8 layers, 3 attentions skipped. Takes under a minute.
    """
    with tempfile.TemporaryDirectory() as scratch:
        return _demo(out or Path(scratch) / "demo.bundle", force, as_json, keep=out is not None)


def _demo(out: Path, force: bool, as_json: bool, keep: bool) -> int:
    from ..backends import BACKENDS, get_backend
    from ..backends.opening import open_runtime
    from ..demo import CHECKPOINT, RECIPE
    from ..generate import generate
    from ..parity.samples import sample_prompts
    from ..pipeline import build
    from .inspect import accounts_table, model_table
    from .report import print_report

    start = time.monotonic()
    result = build(CHECKPOINT, out, recipe=RECIPE, force=force, progress=make_progress(as_json))
    manifest = result.bundle.manifest
    answers = {}
    for backend in (name for name in BACKENDS if get_backend(name).compiler is None):
        runtime = open_runtime(result.bundle, backend)
        for prompt, ids in sample_prompts(manifest.config, manifest.limits, STEPS).prompts.items():
            answers.setdefault(prompt, {})[backend] = generate(runtime, ids, STEPS).tokens[:, 0].tolist()
    agree = all(len(set(map(tuple, tokens.values()))) == 1 for tokens in answers.values())
    seconds = time.monotonic() - start
    if as_json:
        print_json(
            {
                "bundle": str(out) if keep else None,
                "report": result.report.model_dump(mode="json"),
                "tokens": answers,
                "tokens_agree": agree,
                "seconds": round(seconds, 1),
            }
        )
        return 0 if result.report.ok and agree else 1
    console = stdout_console()
    console.print(model_table(manifest.config, result.plan))
    console.print(accounts_table(result.accounts))
    print_report(result.report, console)
    rows = [
        [prompt, backend, " ".join(map(str, tokens))]
        for prompt, each in answers.items()
        for backend, tokens in each.items()
    ]
    console.print(table("the bundle's answers", ["prompt", "runs on", "tokens"], rows))
    console.print(
        f"{'all backends agree' if agree else 'backends DIFFER'}; {seconds:.0f} s"
        + (f"; the bundle is at {out}" if keep else "; pass --out DIR to keep the bundle")
    )
    return 0 if result.report.ok and agree else 1
