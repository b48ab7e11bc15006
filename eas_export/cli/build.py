"""eas-export build"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .build_options import build_options
from .output import PATH, Table, as_plain, json_option, print_json, size, stdout_console
from .progress import make_progress
from .sources import path_options

if TYPE_CHECKING:
    from ..build.estimate import Estimate


@click.command()
@click.option(
    "--ckpt",
    type=PATH,
    required=True,
    help="A checkpoint in its published layout: LaVIN's folder or adapter file, LLaVA's folder, METER's .ckpt.",
)
@path_options
@click.option(
    "--base",
    type=PATH,
    metavar="BUNDLE",
    help="A bundle over the same base model: equal weights become links to its file instead of copies.",
)
@click.option("--out", type=PATH, required=True, help="The folder to write the bundle to.")
@click.option(
    "--labels",
    type=PATH,
    help="METER: the answers of a VQA model in the order of its training, as JSON or a line each; the bundle carries them.",
)
@click.option("--recipe", type=PATH, help="A YAML file with these options; options on the command line override it.")
@build_options()
@click.option("--force", is_flag=True, help="Replace a bundle at --out.")
@click.option("--no-verify", is_flag=True, help="Skip the comparison with the checkpoint at the end.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check the options, the checkpoint, free disk and free memory; write nothing.",
)
@json_option
def build(ckpt: Path, out: Path, as_json: bool, no_verify: bool, dry_run: bool, **options: Any) -> int:
    """Take an EAS checkpoint to a verified bundle.

    \b
    eas-export build --ckpt data/ --out lavin-7b.bundle \\
      --recipe recipes/lavin-7b-scienceqa.yaml
    eas-export build --ckpt checkpoint-19.pth --weights weights/7B \\
      --vision ViT-L-14.pt --out b --skip 19,21-31
    eas-export build --ckpt data/ --out b --precision fp16 \\
      --backend tensorrt-rtx --compute-capability 86,120
    """
    from ..pipeline import build as run_pipeline
    from .inspect import accounts_table, device_table, engines_table
    from .report import print_report

    result = run_pipeline(ckpt, out, verify=not no_verify, dry_run=dry_run, progress=make_progress(as_json), **options)
    said = {
        "bundle": str(out) if result.bundle else None,
        "reused": result.reused,
        "plan": result.plan.model_dump(mode="json"),
        "options": result.request.options.model_dump(mode="json"),
        "accounts": result.accounts.model_dump(mode="json"),
        "needs": [each.model_dump(mode="json") for each in result.estimates],
        "engines": as_plain(result.bundle.manifest.engine_files) if result.bundle else {},
        "device_memory": as_plain(result.device),
        "notes": result.notes,
        "report": result.report.model_dump(mode="json") if result.report else None,
    }
    print_json(said, as_json)
    if as_json:
        return 0 if result.report is None or result.report.ok else 1
    console = stdout_console()
    skipped = ", ".join(map(str, result.plan.skipped)) or "none"
    console.print(f"skipped: {skipped}  ({len(result.plan.skipped)} of {result.plan.sites}, from {result.plan.origin})")
    for note in result.notes:
        console.print(f"note: {note}")
    console.print(accounts_table(result.accounts, result.request.options.precision))
    if dry_run:
        console.print(estimates_table(result.estimates))
    if result.device:
        console.print(device_table(result.device))
    if result.report:
        print_report(result.report, console)
    if result.bundle and result.bundle.manifest.engine_files:
        console.print(engines_table(result.bundle.manifest.engine_files))
    said = (
        "nothing to do, the same bundle is there already"
        if result.reused
        else "written"
        if result.bundle
        else "dry run, nothing written"
    )
    console.print(f"bundle: {out} ({said})")
    return 0 if result.report is None or result.report.ok else 1


def estimates_table(estimates: "tuple[Estimate, ...]") -> Table:
    rows = [
        [
            each.step,
            size(each.disk_bytes) + ("" if each.kept else ", temporary"),
            size(each.memory_bytes),
            f"{each.seconds:.0f} s",
        ]
        for each in estimates
    ]
    return Table(
        "estimates per step, without what can be reused",
        ["step", "disk", "memory", "time"],
        rows,
        numbers=3,
    )
