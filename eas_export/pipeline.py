"""READ THIS FIRST: the whole way from a checkpoint to a verified bundle, a line a stage."""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx_ir as ir

from . import __version__
from .bundle import (
    SCHEMA_VERSION,
    WEIGHTS,
    Bundle,
    Manifest,
    SourceRecord,
    new_bundle_folder,
    record_file,
    sha256_of,
    write_manifest,
)
from .checkpoint.checkpoint import Checkpoint
from .config import ModelConfig
from .errors import UserError
from .export.graphs import FOLD_MODES, Graph
from .export.passes import clean
from .export.trace import trace
from .export.weights import attach_weights
from .families import detect, get_family
from .family import Sources
from .graph import GraphSpec
from .model.network import build_network
from .parity import verify as verify_bundle
from .parity.report import ParityReport
from .plan import SkipPlan, choose_plan
from .precision import PRECISIONS
from .progress import Progress
from .recipe import BuildOptions, Request, resolve
from .rewrite.accounting import Accounts, account
from .rewrite.constants import network_parameters
from .rewrite.prune import prune
from .store import Parameter, Store, write_store

REPORT = "verify"  # under reports/ in the bundle
TOOLS = ("torch", "onnx", "onnx-ir", "onnxscript")  # what a bundle's graphs depend on beside this package


@dataclass(frozen=True)
class Identity:
    """What decides a bundle's content: two builds with the same key give the same bundle."""

    key: str
    sources: tuple[SourceRecord, ...]
    options: dict
    toolchain: dict[str, str]


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
    out = Path(out)
    request = resolve(Path(recipe) if recipe else None, options)
    opts, precision = request.options, PRECISIONS[request.options.precision]
    sources = Sources(Path(ckpt), _path(weights), _path(vision), opts.router_temperature, opts.adapter_scale)

    checkpoint = detect(sources.ckpt).load(sources)
    plan = choose_plan(checkpoint.config.layers, checkpoint.evidence, request.given_skip, request.recipe_skip)
    accounts = account(checkpoint, plan, precision.dtype)
    result = BuildResult(request, plan, accounts, checkpoint.notes)
    if dry_run:
        return result
    identity = _identify(checkpoint, plan, opts, progress)
    if out.exists() and not force:
        bundle = _same_bundle(out, identity)
        report = (_kept_report(bundle) or _verify(bundle, checkpoint, progress)) if verify else None
        return replace(result, bundle=bundle, report=report, reused=True)

    with new_bundle_folder(out) as folder:
        pruned = prune(checkpoint, plan)
        store = _write_weights(folder, pruned, plan, opts, progress)
        graphs = _export_graphs(folder, pruned, plan, opts, store, progress)
        _carry_tokenizer(folder, checkpoint)
        _write_manifest(folder, result, pruned, graphs, identity)
        report = _verify(Bundle(folder), checkpoint, progress) if verify else None
    return replace(result, bundle=Bundle(out), report=report)


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
    """Compare a bundle with the checkpoint, or with its own weights in PyTorch where none is given (see parity/verify.py).

    ckpt, weights, vision  see family.Sources; read with the scale and temperature that the bundle was built with
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle(bundle)
    config, checkpoint = opened.manifest.config, None
    if ckpt is not None:
        scale, temperature = config.kept_adapter.scale, config.kept_adapter.temperature
        sources = Sources(Path(ckpt), _path(weights), _path(vision), temperature, scale)
        checkpoint = get_family(config.family).load(sources)
    return verify_bundle(opened, checkpoint, backend, _path(inputs), steps, progress)


def _write_weights(folder: Path, pruned: Checkpoint, plan: SkipPlan, opts: BuildOptions, progress: Progress) -> Store:
    parameters = [
        Parameter(name, str(t.dtype).removeprefix("torch."), t.shape, t.source, t.read)
        for name, t in network_parameters(pruned, plan, PRECISIONS[opts.precision], opts.limits).items()
    ]
    with progress.stage("writing weights", sum(p.nbytes for p in parameters)) as done:
        return write_store(folder / WEIGHTS, parameters, done)


def _export_graphs(
    folder: Path, pruned: Checkpoint, plan: SkipPlan, opts: BuildOptions, store: Store, progress: Progress
) -> dict[str, GraphSpec]:
    """Trace, clean and save every graph of the fold mode; graph name -> GraphSpec."""
    specs = {}
    for name, graph in FOLD_MODES[opts.fold].items():
        with progress.stage(f"exporting {name}"):
            spec, model = export_graph(graph, pruned.config, plan, opts)
            ir.save(attach_weights(model, store), folder / f"{name}.onnx")
            specs[name] = spec
    return specs


def export_graph(graph: Graph, config: ModelConfig, plan: SkipPlan, opts: BuildOptions) -> tuple[GraphSpec, ir.Model]:
    """One graph's spec and its cleaned ONNX model, without weights."""
    precision, limits = PRECISIONS[opts.precision], opts.limits
    spec = graph.spec(config, plan, precision, limits)
    vision = get_family(config.family).vision
    model = trace(lambda: graph.module(build_network(config, plan, precision, limits, vision)), spec)
    return spec, clean(model)


def _carry_tokenizer(folder: Path, checkpoint: Checkpoint) -> None:
    if checkpoint.tokenizer:
        (folder / checkpoint.tokenizer.name).write_bytes(checkpoint.tokenizer.read_bytes())


def _write_manifest(
    folder: Path, result: BuildResult, pruned: Checkpoint, graphs: dict[str, GraphSpec], identity: Identity
) -> None:
    """Describe everything that lies in the folder by now."""
    opts = result.request.options
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        key=identity.key,
        config=pruned.config,
        plan=result.plan,
        precision=opts.precision,
        fold=opts.fold,
        limits=opts.limits,
        graphs=graphs,
        files={path.name: record_file(path) for path in sorted(folder.iterdir())},
        sources=identity.sources,
        options=identity.options,
        toolchain=identity.toolchain,
        accounts=result.accounts,
        notes=result.notes,
    )
    write_manifest(folder, manifest)


def _verify(bundle: Bundle, checkpoint: Checkpoint, progress: Progress) -> ParityReport:
    report = verify_bundle(bundle, checkpoint, progress=progress)
    bundle.write_report(REPORT, report.model_dump(mode="json"))
    return report


def _kept_report(bundle: Bundle) -> ParityReport | None:
    """What the build that made the bundle found; None where it did not verify."""
    try:
        return ParityReport.model_validate(bundle.read_report(REPORT))
    except ValueError:
        return None


def _identify(checkpoint: Checkpoint, plan: SkipPlan, opts: BuildOptions, progress: Progress) -> Identity:
    """Read every byte of the checkpoint once. The key is content, never names or times."""
    with progress.stage("reading the checkpoint's identity", sum(p.stat().st_size for p in checkpoint.files)) as done:
        sources = tuple(_source_record(path, done) for path in checkpoint.files)
    toolchain = {"eas-export": __version__} | {tool: importlib.metadata.version(tool) for tool in TOOLS}
    options = opts.model_dump() | {"skip": ",".join(map(str, plan.skipped)) or "none"}
    content = [[record.sha256 for record in sources], options, toolchain]
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return Identity(key, sources, options, toolchain)


def _source_record(path: Path, done: Callable[[int], None]) -> SourceRecord:
    record = SourceRecord(name=path.name, bytes=path.stat().st_size, sha256=sha256_of(path))
    done(record.bytes)
    return record


def _same_bundle(out: Path, identity: Identity) -> Bundle:
    """The bundle at `out`, if building would make it again; anything else there is an error."""
    try:
        bundle = Bundle(out)
    except UserError as error:
        raise UserError(
            f"it exists and is not a whole bundle: {error.what}",
            where=out,
            fix="choose another --out, or pass --force to replace it",
        ) from None
    if bundle.manifest.key != identity.key:
        raise UserError(
            "it holds a bundle of another checkpoint, other options or another version",
            where=out,
            fix="choose another --out, or pass --force to replace it",
        )
    return bundle


def _path(value: Path | str | None) -> Path | None:
    return None if value is None else Path(value)
