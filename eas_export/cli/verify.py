"""eas-export verify"""

from pathlib import Path
from typing import Any

import click

from ..core.errors import UserError
from .output import PATH, json_option, print_json, stdout_console
from .progress import make_progress
from .sources import image_root_option, path_options


@click.command()
@click.argument("bundle", type=PATH)
@click.option(
    "--ckpt", type=PATH, help="Checkpoint to compare with. Without one the verdict is self-consistent at best."
)
@path_options
@click.option(
    "--backend",
    multiple=True,
    help="Backend that must run the bundle; repeatable. Default: onnxruntime, and every backend the bundle has engines for.",
)
@click.option("--require", multiple=True, help="Backend that must run beside the default ones; repeatable.")
@click.option(
    "--inputs",
    type=PATH,
    help="An npz or jsonl file as for run; each row is compared alone, then in batches. Default: prompts made from the config.",
)
@image_root_option
@click.option(
    "--steps",
    type=int,
    help="Decode steps, unless the inputs force tokens.  [default: 8, or as many as the bundle takes]",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where PyTorch and ONNX Runtime run the bundle; the reference runs on the CPU.",
)
@click.option(
    "--against",
    type=click.Choice(["transformers"]),
    help="Also compare the model without its adapters with transformers' own classes, which read the checkpoint by themselves. Needs --ckpt.",
)
@click.option(
    "--negative-controls",
    is_flag=True,
    help="Also plant known faults in copies, and check that each is found and located. Needs --ckpt.",
)
@click.option("--html", type=PATH, help="Also write the report as one HTML page with plots.")
@json_option
def verify(bundle: Path, backend: tuple[str, ...], html: Path | None, as_json: bool, **options: Any) -> int:
    """Compare a bundle with PyTorch, step by step.

    The reference is PyTorch in fp32 with the adapters in place. The fold, the stored weights and every backend follow as steps; each is
    compared with the reference and with the step before, within stated tolerances. A difference is traced to its block and stage.
    Questions with an "answer" in --inputs are scored too.

    Exit 0: the same, 1: differs or misses a planted fault, 2: wrong use, 3: a required backend was not run.

    \b
    eas-export verify lavin-7b.bundle --ckpt data/
    eas-export verify lavin-7b.bundle --ckpt data/ --html report.html
    eas-export verify llava.bundle --ckpt llava/ --against transformers
    eas-export verify lavin-7b.bundle --ckpt data/ --require tensorrt-rtx
    """
    from ..pipeline import verify as compare
    from ..system.files import written_whole
    from ..verify.html import render
    from .report import print_report

    if html:
        _require_page(html, bundle)
    report = compare(bundle, backend=backend or None, progress=make_progress(as_json), **options)
    print_json(report.model_dump(mode="json"), as_json)
    if not as_json:
        print_report(report, stdout_console(), exits=True)
    if html:
        with written_whole(html) as file:
            file.write(render(report, bundle.name).encode("utf-8"))
    return report.exit_code


def _require_page(html: Path, bundle: Path) -> None:
    """Raise UserError, before any work, where the page cannot be written."""
    from ..system.files import require_writable

    if html.suffix.lower() not in (".html", ".htm") or html.resolve().is_relative_to(bundle.resolve()):
        fix = "give a name that ends in .html, outside the bundle"
        raise UserError("--html is not an .html file outside the bundle", where=f"--html {html}", fix=fix)
    require_writable(html)
