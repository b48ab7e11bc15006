"""Describe a checkpoint or a bundle from its headers."""

from pathlib import Path
from typing import Any

from .backends.opening import require_own_graphs_and_weights, weights_in_memory
from .build.accounting import account
from .build.recipe import resolve
from .bundle.bundle import Bundle, open_bundle
from .bundle.manifest import MANIFEST
from .core.errors import UserError
from .core.plan import choose_plan, disagreement, make_plan
from .core.precision import PRECISIONS
from .core.progress import Progress
from .families import load_checkpoint, tokenizer_notes
from .families.contract import Sources
from .networks.memory import device_memory, request_memory


def inspect(
    path: Path | str, *, skip: str | None = None, check: bool = False, progress: Progress | None = None, **sources: Any
) -> dict[str, Any]:
    """Facts of a checkpoint or a bundle by name; values are records, numbers and texts.

    skip     a checkpoint's attentions to skip
    check    read every byte of a bundle and compare its sha256 with the manifest's
    sources  of a checkpoint: weights, vision, base_weights, tokenizer and settings that its files may lack (see families/contract.Sources)

    Bytes of a checkpoint are counted in fp16, of a bundle in its own precision. Raises UserError where the path is neither, or damaged.
    """
    path, given = Path(path), {name: value for name, value in sources.items() if value is not None}
    if (path / MANIFEST).is_file():
        if skip is not None or given:
            names = [name for name, value in {"skip": skip, **sources}.items() if value is not None]
            options = ", ".join(f"--{name.replace('_', '-')}" for name in names)
            what = "the path is a bundle, and these options are for checkpoints"
            raise UserError(what, where=path, fix=f"leave {options} out")
        bundle = open_bundle(path)
        if check:
            require_own_graphs_and_weights(bundle)
            with (progress or Progress()).stage("checking files", bundle.nbytes) as done:
                bundle.require_whole(done)
        return _bundle_facts(bundle)
    if check:
        fix = "leave --check out"
        raise UserError("--check works on bundles only, and the path is not one", where=path, fix=fix)
    return _checkpoint_facts(path, skip, **given)


def _bundle_facts(bundle: Bundle) -> dict[str, Any]:
    m = bundle.manifest
    used = {dim.limit for spec in m.graphs.values() for dim in spec.dims.values()}
    limits = {name: value for name, value in m.limits.model_dump().items() if name.replace("_", "-") in used}
    return {
        "kind": "bundle",
        "config": m.config,
        "plan": m.plan,
        "accounts": m.accounts,
        "requests": request_memory(m.config, m.plan, PRECISIONS[m.precision]),
        "precision": m.precision,
        "fold": m.fold,
        "limits": limits,
        "files": {name: record.bytes for name, record in m.files.items()},
        "base": m.base,
        "weights_in_memory": weights_in_memory(bundle),
        "device_memory": device_memory(
            m.config,
            m.plan,
            PRECISIONS[m.precision],
            m.limits,
            m.fold,
            {name: entry.nbytes for name, entry in bundle.store.entries.items()},
        ),
        "engines": m.engine_files,
        "toolchain": m.toolchain,
        "notes": m.notes,
    }


def _checkpoint_facts(path: Path, skip: str | None, **sources: Any) -> dict:
    paths = {
        name: Path(sources.pop(name)) for name in ("weights", "vision", "base_weights", "tokenizer") if name in sources
    }
    checkpoint = load_checkpoint(Sources(path, **paths, **resolve(None, sources).options.settings))
    notes = list(checkpoint.notes)
    try:
        plan = choose_plan(checkpoint.config.sites, checkpoint.evidence, skip)
    except UserError as error:
        if skip is not None:
            raise
        plan = make_plan(checkpoint.config.sites, "none", "no skip list found")
        notes.append(f"{error.what}; shown without skipping")
    notes += (
        *checkpoint.config.notes(plan.skipped),
        *disagreement(plan, checkpoint.evidence, checkpoint.config.attentions, checkpoint.config.has_adapters),
        *tokenizer_notes(checkpoint),
    )
    precision = PRECISIONS["fp16"]
    accounts = account(checkpoint, plan, precision.dtype)
    return {
        "kind": "checkpoint",
        "config": checkpoint.config,
        "plan": plan,
        "accounts": accounts,
        "requests": request_memory(checkpoint.config, plan, precision),
        "notes": tuple(notes),
    }
