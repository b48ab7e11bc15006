"""READ THIS FIRST: the whole way from a checkpoint to a verified bundle, a line a stage."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from .accounts import Accounts
from .bundle import (
    MANIFEST,
    SCHEMA_VERSION,
    WEIGHTS,
    Bundle,
    FileRecord,
    Manifest,
    open_bundle,
    record_file,
    sha256_of,
    write_manifest,
)
from .checkpoint.checkpoint import Checkpoint
from .destination import check_destination, new_bundle_folder
from .errors import UserError
from .export.export_graph import export_graph
from .export.graphs import FOLD_MODES
from .export.weights import attach_weights
from .families import detect, get_family
from .family import Sources
from .graph import GraphSpec
from .identity import Identity, identify
from .parity import compare_bundle
from .parity.report import ParityReport
from .plan import GIVEN, SkipPlan, choose_plan, disagreement
from .precision import PRECISIONS
from .progress import Progress
from .recipe import BuildOptions, Request, resolve
from .rewrite.accounting import account
from .rewrite.constants import network_parameters
from .rewrite.prune import prune
from .store import Parameter, Store, write_store
from .tokenizer import Tokenizer

REPORT = "verify"  # under reports/ in the bundle
ORIGIN = "the checkpoint it was built from"


@dataclass(frozen=True)
class BuildResult:
    """bundle is None after a dry run, report where nothing was verified; reused: the same bundle was there already"""

    request: Request
    plan: SkipPlan
    accounts: Accounts
    notes: tuple[str, ...]
    bundle: Bundle | None = None
    report: ParityReport | None = None
    reused: bool = False


def build(
    ckpt: Path | str,
    out: Path | str,
    *,
    recipe: Path | str | None = None,
    weights: Path | str | None = None,
    vision: Path | str | None = None,
    force: bool = False,
    verify: bool = True,
    dry_run: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> BuildResult:
    """Take an EAS checkpoint to a bundle at `out`.

    ckpt, weights, vision  see family.Sources
    recipe                 a YAML file; `options` are recipe.BuildOptions' keys and win over it
    force                  replace what is at `out`
    verify                 end with the parity ledger and keep it in the bundle
    dry_run                stop when everything is checked and nothing is written

    Raises UserError for anything the user can mend; then nothing is left at `out` that was not there before.
    """
    progress = progress or Progress()
    out = Path(os.path.realpath(out))
    request = resolve(Path(recipe) if recipe else None, options)
    opts, precision = request.options, PRECISIONS[request.options.precision]
    sources = Sources(Path(ckpt), _path(weights), _path(vision), opts.router_temperature, opts.adapter_scale)

    checkpoint = detect(sources.ckpt).load(sources)
    if checkpoint.tokenizer:
        Tokenizer(checkpoint.tokenizer, checkpoint.config.vocab_size)  # carried along as it is, if it is one
    plan = choose_plan(checkpoint.config.layers, checkpoint.evidence, request.given_skip, request.recipe_skip)
    accounts = account(checkpoint, plan, precision.dtype)
    notes = (*checkpoint.notes, *disagreement(plan, checkpoint.evidence))
    result = BuildResult(request, plan, accounts, notes)
    check_destination(out)
    if dry_run:
        return result
    identity = identify(checkpoint, plan, opts, progress)
    if (out / MANIFEST).exists() and not force:
        bundle = _same_bundle(out, identity)
        report = (_kept_report(bundle) or _verify(bundle, checkpoint, progress)) if verify else None
        return replace(result, bundle=bundle, report=report, reused=True)

    with new_bundle_folder(out) as folder:
        pruned = prune(checkpoint, plan)
        weights_record = _write_weights(folder, pruned, plan, opts, progress)
        graphs = _export_graphs(folder, pruned, plan, opts, Store(folder / WEIGHTS), progress)
        _carry_tokenizer(folder, checkpoint)
        bundle = Bundle(folder, _describe(folder, result, pruned, graphs, identity, weights_record))
        report = _verify(bundle, checkpoint, progress) if verify else None
        write_manifest(folder, bundle.manifest)  # only now does it open
    return replace(result, bundle=open_bundle(out), report=report)


def verify(
    bundle: Bundle | Path | str,
    ckpt: Path | str | None = None,
    *,
    weights: Path | str | None = None,
    vision: Path | str | None = None,
    backend: str = "onnxruntime",
    inputs: Path | str | None = None,
    steps: int = 8,
    progress: Progress | None = None,
) -> ParityReport:
    """Compare a bundle with the checkpoint, or with its own weights in PyTorch where none is given (see parity/compare.py).

    ckpt, weights, vision  see family.Sources; a scale and a temperature that the build was given are given again
    inputs, steps          see parity/compare.py

    Raises UserError where the checkpoint is of another shape, says another scale or temperature, or was trained with other skips.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    m = opened.manifest
    if ckpt is None:
        if weights is not None or vision is not None:
            raise UserError("--weights and --vision belong to a checkpoint", where="verify", fix="pass --ckpt too")
        return compare_bundle(opened, None, "the bundle's own weights", backend, _path(inputs), steps, progress)
    sources = Sources(Path(ckpt), _path(weights), _path(vision), m.options.router_temperature, m.options.adapter_scale)
    checkpoint = get_family(m.config.family).load(sources)
    _require_same_model(m, checkpoint)
    is_origin = [sha256_of(path) for path in checkpoint.files] == [source.sha256 for source in m.sources]
    reference = ORIGIN if is_origin else "a checkpoint that is not its origin"
    return compare_bundle(opened, checkpoint, reference, backend, _path(inputs), steps, progress)


def _require_same_model(m: Manifest, checkpoint: Checkpoint) -> None:
    theirs, ours = checkpoint.config.model_dump(), m.config.model_dump()
    if m.plan.origin != GIVEN and disagreement(m.plan, checkpoint.evidence):
        theirs, ours = theirs | {"skip list": checkpoint.evidence.text}, ours | {"skip list": list(m.plan.skipped)}
    for key in ours:
        if theirs[key] != ours[key]:
            raise UserError(
                f"the checkpoint is another model: its {key} is {theirs[key]}, the bundle's {ours[key]}",
                where=checkpoint.files[0],
                fix="give the checkpoint that the bundle was built from",
            )


def _write_weights(
    folder: Path, pruned: Checkpoint, plan: SkipPlan, opts: BuildOptions, progress: Progress
) -> FileRecord:
    """Write the store; its record is made on the way, nothing is read back."""
    parameters = [
        Parameter(name, str(t.dtype).removeprefix("torch."), t.shape, t.source, t.read)
        for name, t in network_parameters(pruned, plan, PRECISIONS[opts.precision], opts.limits).items()
    ]
    with progress.stage("writing weights", sum(p.nbytes for p in parameters)) as done:
        sha256 = write_store(folder / WEIGHTS, parameters, done)
    return FileRecord(bytes=(folder / WEIGHTS).stat().st_size, sha256=sha256)


def _export_graphs(
    folder: Path, pruned: Checkpoint, plan: SkipPlan, opts: BuildOptions, store: Store, progress: Progress
) -> dict[str, GraphSpec]:
    """Trace, clean and save every graph of the fold mode; graph name -> GraphSpec."""
    specs = {}
    for name, graph in FOLD_MODES[opts.fold].items():
        with progress.stage(f"exporting {name}"):
            spec, model = export_graph(graph, pruned.config, plan, PRECISIONS[opts.precision], opts.limits)
            ir.save(attach_weights(model, store), folder / f"{name}.onnx")
            specs[name] = spec
    return specs


def _carry_tokenizer(folder: Path, checkpoint: Checkpoint) -> None:
    if checkpoint.tokenizer:
        (folder / checkpoint.tokenizer.name).write_bytes(checkpoint.tokenizer.read_bytes())


def _describe(
    folder: Path,
    result: BuildResult,
    pruned: Checkpoint,
    graphs: dict[str, GraphSpec],
    identity: Identity,
    weights: FileRecord,
) -> Manifest:
    """The manifest of everything that lies in the folder by now."""
    opts = result.request.options
    return Manifest(
        schema_version=SCHEMA_VERSION,
        key=identity.key,
        config=pruned.config,
        plan=result.plan,
        precision=opts.precision,
        fold=opts.fold,
        limits=opts.limits,
        graphs=graphs,
        files={p.name: weights if p.name == WEIGHTS else record_file(p) for p in sorted(folder.iterdir())},
        sources=identity.sources,
        options=identity.options,
        toolchain=identity.toolchain,
        accounts=result.accounts,
        notes=result.notes,
    )


def _verify(bundle: Bundle, checkpoint: Checkpoint, progress: Progress) -> ParityReport:
    report = compare_bundle(bundle, checkpoint, ORIGIN, progress=progress)
    bundle.write_report(REPORT, report.model_dump(mode="json"))
    return report


def _kept_report(bundle: Bundle) -> ParityReport | None:
    """What the build that made the bundle found; None where it did not verify."""
    try:
        return ParityReport.model_validate(bundle.read_report(REPORT))
    except ValueError:
        return None


def _same_bundle(out: Path, identity: Identity) -> Bundle:
    """The bundle at `out`, if building would make it again; anything else there is an error. Reads every byte of it."""
    bundle = open_bundle(out)
    if bundle.manifest.key != identity.key:
        raise UserError(
            "it holds a bundle of another checkpoint, other options or another version",
            where=out,
            fix="choose another --out, or pass --force to replace it",
        )
    if damaged := bundle.damaged_files():
        raise UserError(
            f"{damaged[0]} is damaged: its sha256 is not the manifest's",
            where=out,
            fix="pass --force to build it again",
        )
    return bundle


def _path(value: Path | str | None) -> Path | None:
    return None if value is None else Path(value)
