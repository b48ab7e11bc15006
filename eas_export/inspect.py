"""Describe a checkpoint or a bundle from its headers."""

from pathlib import Path
from typing import Any, Literal

from .backends.opening import require_own_graphs_and_weights, weights_in_memory
from .build.accounting import account
from .build.recipe import resolve
from .bundle.bundle import Bundle, open_bundle
from .bundle.manifest import MANIFEST, Accounts, FileRecord, SourceRecord
from .core.configs import AnyConfig
from .core.errors import UserError
from .core.options import BuildOptions
from .core.plan import SkipPlan, choose_plan, disagreement, make_plan
from .core.precision import PRECISIONS
from .core.progress import Progress
from .core.record import Record
from .families import load_checkpoint, tokenizer_notes
from .families.contract import Sources
from .networks.memory import DeviceMemory, RequestMemory, device_memory, request_memory

FILES = ("weights", "vision", "base_weights", "tokenizer")  # of a checkpoint


class Facts(Record):
    """What is in a checkpoint or a bundle.

    accounts   parameters and bytes before and after pruning
    requests   fold mode -> memory of a request
    precision  in which bytes are counted: a bundle's own, a checkpoint's in fp16
    system, known_by  which published system a checkpoint is, and what told; the latter is empty for bundles
    """

    kind: Literal["checkpoint", "bundle"]
    config: AnyConfig
    plan: SkipPlan
    accounts: Accounts
    requests: dict[str, RequestMemory]
    precision: str
    notes: tuple[str, ...]
    system: str = ""
    known_by: str = ""


class BundleFacts(Facts):
    """What a bundle has in addition.

    limits             those that its graphs depend on
    files              name -> bytes
    base               the bundle whose weights it shares
    weights_in_memory  backend -> private bytes of the weights, beside the mapped file
    device_memory      of engines, also where it has none
    engines            name -> record
    toolchain          versions of the tools that made it
    """

    fold: str
    limits: dict[str, int]
    files: dict[str, int]
    base: SourceRecord | None
    weights_in_memory: dict[str, int]
    device_memory: DeviceMemory
    engines: dict[str, FileRecord]
    toolchain: dict[str, str]


def inspect(
    path: Path | str,
    *,
    skip: str | list[int] | int | None = None,
    check: bool = False,
    progress: Progress | None = None,
    **sources: Any,
) -> Facts:
    """What is in a checkpoint, or in a bundle: then as BundleFacts.

    skip     a checkpoint's attentions to skip: "20-31,5", a list, a number or "none"
    check    read every byte of a bundle and compare its sha256 with the manifest's
    sources  of a checkpoint: weights, vision, base_weights, tokenizer and settings that its files may lack (see families/contract.Sources)

    Bytes of a checkpoint are counted in fp16, of a bundle in its own precision. Raises UserError where the path is neither, or damaged.
    """
    takes = (*FILES, *BuildOptions().settings)
    if wrong := next((name for name in sources if name not in takes), None):
        fix = f"leave {wrong} out: the keywords are {', '.join(('skip', 'check', 'progress', *takes))}"
        raise UserError(f"inspect does not take {wrong}", where=wrong, fix=fix)
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
    return _checkpoint_facts(path, skip=skip, **given)


def _bundle_facts(bundle: Bundle) -> BundleFacts:
    m = bundle.manifest
    used = {dim.limit for spec in m.graphs.values() for dim in spec.dims.values()}
    limits = {name: value for name, value in m.limits.model_dump().items() if name.replace("_", "-") in used}
    return BundleFacts(
        kind="bundle",
        config=m.config,
        plan=m.plan,
        accounts=m.accounts,
        system=m.system,
        requests=request_memory(m.config, m.plan, PRECISIONS[m.precision]),
        precision=m.precision,
        fold=m.fold,
        limits=limits,
        files={name: record.bytes for name, record in m.files.items()},
        base=m.base,
        weights_in_memory=weights_in_memory(bundle),
        device_memory=device_memory(
            m.config,
            m.plan,
            PRECISIONS[m.precision],
            m.limits,
            m.fold,
            {name: entry.nbytes for name, entry in bundle.store.entries.items()},
        ),
        engines=m.engine_files,
        toolchain=m.toolchain,
        notes=m.notes,
    )


def _checkpoint_facts(path: Path, **given: Any) -> Facts:
    paths = {name: Path(given.pop(name)) for name in FILES if name in given}
    request = resolve(None, given)
    checkpoint = load_checkpoint(Sources(path, **paths, **request.options.settings))
    config, notes = checkpoint.config, list(checkpoint.notes)
    try:
        plan = choose_plan(config.sites, checkpoint.evidence, request.given_skip, site=config.site)
    except UserError as error:
        if request.given_skip is not None:
            raise
        plan = make_plan(config.sites, "none", "no skip list found")
        notes.append(f"{error.what}: shown without skipping; {error.fix}")
    notes += (
        *config.notes(plan.skipped),
        *disagreement(plan, checkpoint.evidence, config.attentions, config.has_adapters, config.site),
        *tokenizer_notes(checkpoint),
    )
    precision = PRECISIONS["fp16"]
    accounts = account(checkpoint, plan, precision.dtype)
    return Facts(
        kind="checkpoint",
        config=checkpoint.config,
        plan=plan,
        accounts=accounts,
        requests=request_memory(checkpoint.config, plan, precision),
        precision="fp16",
        notes=tuple(notes),
        system=checkpoint.system,
        known_by=checkpoint.known_by,
    )
