"""eas-export verify"""

from pathlib import Path
from typing import Any

import click

from .output import PATH, json_option, print_json, stdout_console
from .progress import make_progress


@click.command()
@click.argument("bundle", type=PATH)
@click.option(
    "--ckpt", type=PATH, help="The checkpoint to compare with. Without it the verdict is self-consistent at best."
)
@click.option("--weights", type=PATH, help="The LLaMA folder, where --ckpt is a file.")
@click.option("--vision", type=PATH, help="The CLIP file, where --ckpt is a file.")
@click.option("--backend", default="onnxruntime", show_default=True, help="What runs the bundle's graphs.")
@click.option(
    "--inputs",
    type=PATH,
    help="An npz or jsonl file as for run; each row is compared on its own, then in batches. Default: made from the config.",
)
@click.option(
    "--steps",
    type=click.IntRange(0),
    default=8,
    show_default=True,
    help="Decode steps, unless the inputs force tokens.",
)
@json_option
def verify(bundle: Path, as_json: bool, **options: Any) -> int:
    """Compare a bundle with PyTorch, stage by stage.

    The reference keeps the adapters in place and runs in fp32; every stage has a tolerance. Exit 0: the same, 1: differs.

    \b
    eas-export verify lavin-7b.bundle --ckpt data/
    """
    from ..pipeline import verify as compare
    from .report import print_report

    report = compare(bundle, progress=make_progress(as_json), **options)
    if as_json:
        print_json(report.model_dump(mode="json") | {"first_failure": report.first_failure})
    else:
        print_report(report, stdout_console())
    return 0 if report.ok else 1
