"""READ THIS FIRST: from a checkpoint to a verified bundle, one line per stage."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from .backends.opening import require_own_graphs_and_weights
from .backends.runtime import device_named
from .build.accounting import account
from .build.artifacts import (
    ANOTHER_BASE,
    Blueprint,
    describe,
    engine_targets,
    make_files,
    require_matrix_products,
    require_shared,
)
from .build.difference import differing, first_difference
from .build.estimate import Estimate, check_resources, estimate_build
from .build.keys import Identity, hash_sources, identify
from .build.recipe import Request, resolve
from .build.workspace import check_destination, lock, workspace
from .bundle.bundle import Bundle, find_bundle, open_bundle, read_bundle, write_manifest
from .bundle.manifest import MANIFEST, Accounts, Manifest
from .checkpoint.checkpoint import Checkpoint
from .core.configs import AnyConfig
from .core.errors import UserError
from .core.options import BuildOptions
from .core.plan import EXPLICIT, SkipPlan, choose_plan, disagreement
from .core.precision import PRECISIONS
from .core.progress import Progress
from .core.registry import find
from .families import get_family, load_checkpoint, tokenizer_notes
from .families.contract import Sources
from .inputs.questions import require_no_root
from .networks.drop import drop_adapters
from .networks.graphs import fold_modes, takes_one_prompt
from .networks.memory import DeviceMemory
from .networks.parameters import exported
from .networks.prune import prune
from .system.hashing import remembered_sha256
from .verify.compare import DEFAULT_BACKEND, DEFAULT_STEPS, compare_bundle
from .verify.compare import Request as ParityRequest
from .verify.controls import not_planted, run_controls
from .verify.report import ParityReport, Verdict

REPORT = "verify"  # under reports/ in the bundle
ORIGIN = "the checkpoint it was built from"


@dataclass(frozen=True)
class BuildResult:
    """estimates: disk, memory and time of each step; device: GPU memory of engines, None without engines; bundle: None after a dry run; report:
    None where nothing was verified; reused: the same bundle was there already"""

    request: Request
    plan: SkipPlan
    accounts: Accounts
    estimates: tuple[Estimate, ...]
    notes: tuple[str, ...]
    device: DeviceMemory | None = None
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
    base_weights: Path | str | None = None,
    tokenizer: Path | str | None = None,
    labels: Path | str | None = None,
    base: Path | str | None = None,
    force: bool = False,
    verify: bool = True,
    dry_run: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> BuildResult:
    """Build a bundle at `out` from an EAS checkpoint.

    ckpt, weights, vision, base_weights, tokenizer, labels  see families/contract.Sources
    recipe                 a YAML file; `options` are core/options.BuildOptions' keys and win over it
    base                   a bundle over the same base model: equal weights become links to its file
    force                  replace what is at `out`
    verify                 compare the bundle with the checkpoint, and keep the report in the bundle
    dry_run                check everything, write nothing; of a text decoder's folder config.json is enough

    Files with the same content are reused from an unfinished build into `out` and from the bundle that is replaced.

    Raises UserError for anything the user can fix; then `out` is as it was before.
    """
    progress = progress or Progress()
    out = Path(os.path.realpath(out))
    request = resolve(Path(recipe) if recipe else None, options)
    opts = request.options
    answers = None if labels is None else Path(labels)
    sources = Sources.given("build", ckpt, weights, vision, base_weights, tokenizer, labels=answers, **opts.settings)
    sources = replace(sources, shapes=dry_run)

    with request.suiting():
        checkpoint = _load(sources, opts)
        opts = settle(opts, checkpoint.config)
        _require_images_fit(opts, checkpoint)
    request = replace(request, options=opts)
    config, evidence = checkpoint.config, checkpoint.evidence
    plan = choose_plan(config.sites, evidence, request.given_skip, request.recipe_skip, config.site)
    untrained = disagreement(plan, evidence, config.attentions, config.has_adapters, config.site)
    notes = (*checkpoint.notes, *config.notes(plan.skipped), *untrained, *tokenizer_notes(checkpoint))
    network = exported(prune(checkpoint, plan), plan, opts.fold)
    accounts = account(checkpoint, plan, PRECISIONS[opts.precision].dtype, network)
    blueprint = Blueprint(network, plan, opts, engine_targets(opts), checkpoint.config)
    require_matrix_products(blueprint)
    check_destination(out)
    shared = _open_base(Path(base), out, blueprint) if base else None
    estimates = estimate_build(blueprint, out, shared, verify)
    said = (*request.notes, *notes)
    device = blueprint.device_memory if blueprint.targets else None
    result = BuildResult(request, plan, accounts, estimates, said, device)
    if force or not (out / MANIFEST).exists():
        check_resources(
            estimates, out.parent, "choose another disk for --out, or build with --precision fp16 or --no-verify"
        )
    if dry_run:
        return result

    with lock(out) as home:
        identity = identify(network, plan, opts, blueprint.targets, shared, progress)
        if (out / MANIFEST).exists() and not force:
            bundle = _same_bundle(out, blueprint, identity, progress)
            report = (_kept_report(bundle) or _verify(bundle, checkpoint, progress)) if verify else None
            return replace(result, bundle=bundle, report=report, reused=True)
        reuse_sources = [bundle for bundle in (shared, find_bundle(out)) if bundle]
        with workspace(home, out, force, reuse_sources, progress) as space:
            make_files(space, blueprint, identity, shared, progress)
            bundle = Bundle(space.folder, describe(space, blueprint, identity, accounts, notes))
            report = _verify(bundle, checkpoint, progress) if verify else None
            write_manifest(space.folder, bundle.manifest)  # only now can the bundle be opened
    return replace(result, bundle=open_bundle(out), report=report)


def settle(options: BuildOptions, config: AnyConfig) -> BuildOptions:
    """The options for this network. Raises UserError where they do not fit it."""
    modes = fold_modes(config)
    one_prompt = [mode for mode in modes if takes_one_prompt(config, mode)]
    return options.settled(modes, config.unused_limits, one_prompt)


def _require_images_fit(options: BuildOptions, checkpoint: Checkpoint) -> None:
    prompts = get_family(checkpoint.config.family).prompts
    most = prompts.most_images if prompts else None
    if most is not None and options.max_images > most:
        what = f"--max-images is {options.max_images}, but a prompt of this model has at most {most}"
        raise UserError(what, where="--max-images", fix="leave --max-images out")


def verify(
    bundle: Bundle | Path | str,
    ckpt: Path | str | None = None,
    *,
    weights: Path | str | None = None,
    vision: Path | str | None = None,
    base_weights: Path | str | None = None,
    tokenizer: Path | str | None = None,
    backend: Sequence[str] | str | None = None,
    require: Sequence[str] | str = (),
    inputs: Path | str | None = None,
    image_root: Path | str | None = None,
    steps: int | None = None,
    device: str = "cpu",
    against: str | None = None,
    negative_controls: bool = False,
    progress: Progress | None = None,
) -> ParityReport:
    """Compare a bundle with a checkpoint, or with its own weights in PyTorch where no checkpoint is given.

    ckpt, weights, vision, base_weights, tokenizer  see families/contract.Sources; scale and temperature are those that the build was given
    backend                one or several that must run the bundle; None: ONNX Runtime and every backend that it has engines for
    require, inputs, image_root  see verify/compare.Request
    steps                  decode steps, unless the inputs force tokens; None: 8, or as many as the bundle's limits allow
    device                 cpu or cuda: where PyTorch and ONNX Runtime run the bundle; the reference runs on the CPU
    against                "transformers": also compare the checkpoint's base path with transformers' own classes (families/witnesses)
    negative_controls      also plant known faults in copies and check that each is found, on the CPU (verify/controls.py)

    Raises UserError where the checkpoint is of another shape, says another scale or temperature, or was trained with other skips, for more
    steps than the bundle's limits allow, for steps of a model that does not decode, and for cuda where PyTorch sees no GPU.
    """
    place = device_named(device)
    opened = bundle if isinstance(bundle, Bundle) else read_bundle(bundle)
    m, progress = opened.manifest, progress or Progress()
    if steps is not None and get_family(m.config.family).prompts is None:
        what = "the bundle's model answers in one pass and decodes nothing"
        raise UserError(what, where="--steps", fix="leave --steps out")
    if steps is not None and not 0 <= steps < m.limits.max_tokens:
        fix = f"give 0 to {m.limits.max_tokens - 1}, or build with another --max-tokens"
        raise UserError(f"--steps is {steps}, out of range 0 to {m.limits.max_tokens - 1}", where="--steps", fix=fix)
    file, root = (None if path is None else Path(path) for path in (inputs, image_root))
    require_no_root(root, file)
    checkpoint, reference = None, "the bundle's own weights"
    sources = Sources.given("verify", ckpt, weights, vision, base_weights, tokenizer, **m.options.settings)
    if sources and opened.is_unchanged:
        checkpoint = _load(sources, m.options, m.config.family)
        _require_same_model(m, checkpoint)
        is_origin = hash_sources(checkpoint, progress) == m.sources
        reference = ORIGIN if is_origin else "a checkpoint that is not its origin"
    if negative_controls and sources is None:
        what = "negative controls need the checkpoint: a wrong weight shows only beside the right one"
        raise UserError(what, where="--negative-controls", fix="pass --ckpt too")
    witness = None
    if against:
        _require_witness(against, sources, m.config.family)
        witness = (against, partial(get_family(m.config.family).witness, sources))
    chosen = None if backend is None else _names(backend)
    count = DEFAULT_STEPS if steps is None else steps
    request = ParityRequest(
        checkpoint, reference, chosen, _names(require), file, count, witness=witness, device=place, image_root=root
    )
    report = compare_bundle(opened, request, progress)
    if not negative_controls:
        return report
    ran = any(step.name == DEFAULT_BACKEND and step.ran for step in report.steps)
    sound = report.verdict == Verdict.SAME and ran
    reason = f"not planted: the bundle itself is not the same on {DEFAULT_BACKEND}"
    return report.model_copy(
        update={
            "controls": run_controls(opened, replace(request, witness=None), progress)
            if sound
            else not_planted(opened, reason)
        }
    )


def _require_witness(name: str, sources: Sources | None, family: str) -> None:
    """Raise UserError unless a checkpoint is given whose family has this witness."""
    find({"transformers": None}, name, "witness", "--against")
    if sources is None:
        what = f"--against {name} needs the checkpoint's files"
        raise UserError(what, where="--against", fix="pass --ckpt too")
    if get_family(family).witness is None:
        raise UserError(f"{name} has no classes for {family}", where="--against", fix="leave --against out")


def _load(sources: Sources, options: BuildOptions, family: str | None = None) -> Checkpoint:
    """The checkpoint, without its adapters where the options drop them."""
    checkpoint = load_checkpoint(sources, family)
    return drop_adapters(checkpoint) if options.adapters == "drop" else checkpoint


def _require_same_model(m: Manifest, checkpoint: Checkpoint) -> None:
    theirs, ours = checkpoint.config.model_dump(), m.checkpoint_config.model_dump()
    if m.system and m.system != checkpoint.system:
        theirs, ours = {"system": checkpoint.system} | theirs, {"system": m.system} | ours
    if m.plan.origin != EXPLICIT and disagreement(m.plan, checkpoint.evidence, m.config.attentions):
        theirs, ours = theirs | {"skip list": checkpoint.evidence.text}, ours | {"skip list": list(m.plan.skipped)}
    if found := differing(theirs, ours):
        key, their, our = found
        raise UserError(
            f"the checkpoint is another model: its {key} is {their}, the bundle's {our}",
            where=checkpoint.files[0],
            fix="pass the checkpoint that the bundle was built from, or build the bundle again with --force",
        )


def _open_base(path: Path, out: Path, blueprint: Blueprint) -> Bundle:
    """The bundle whose weights are shared. Raises UserError where none could be."""
    base = open_bundle(path)
    if os.path.realpath(path) == str(out):
        what = "--base is the bundle that is to be built"
        raise UserError(what, where=f"--base {path}", fix="name another bundle, or leave --base out")
    if base.manifest.precision != blueprint.options.precision:
        what = f"the base bundle is in {base.manifest.precision}, this build in {blueprint.options.precision}"
        raise UserError(what, where=f"--base {path}", fix=ANOTHER_BASE)
    require_shared(blueprint, base)
    return base


def _verify(bundle: Bundle, checkpoint: Checkpoint, progress: Progress) -> ParityReport:
    report = compare_bundle(bundle, ParityRequest(checkpoint, ORIGIN, (DEFAULT_BACKEND,), thorough=False), progress)
    bundle.write_report(REPORT, report.model_dump(mode="json"))
    return report


def _kept_report(bundle: Bundle) -> ParityReport | None:
    """The report of the build that made the bundle; None where it did not verify."""
    try:
        return ParityReport.model_validate(bundle.read_report(REPORT))
    except ValueError:
        return None


def _same_bundle(out: Path, blueprint: Blueprint, identity: Identity, progress: Progress) -> Bundle:
    """The bundle at `out`, if this build would make the same one. Raises UserError for any other."""
    bundle = open_bundle(out)
    if bundle.manifest.key != identity.key:
        what = f"the folder holds another bundle: {first_difference(blueprint, identity, bundle.manifest)}"
        raise UserError(what, where=out, fix="choose another --out, or pass --force to replace it")
    with progress.stage("checking the existing bundle", bundle.nbytes) as done:
        bundle.require_whole(done, remembered_sha256)
    require_own_graphs_and_weights(bundle)  # a manifest of schema 4 has no digest
    return bundle


def _names(value: Sequence[str] | str) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
