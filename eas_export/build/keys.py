"""What decides a bundle's content, and each of its files'. Keys are content, never names or times."""

import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from ..bundle.bundle import Bundle
from ..bundle.manifest import WEIGHTS, SourceRecord, Target
from ..bundle.store import Store
from ..checkpoint.checkpoint import Checkpoint
from ..core.configs import AnyConfig
from ..core.graph_spec import GraphSpec
from ..core.limits import Limits
from ..core.options import BuildOptions
from ..core.plan import SkipPlan
from ..core.progress import Progress
from ..system.hashing import key_of, remembered_sha256

TOOLS = ("torch", "onnx", "onnx-ir", "onnxscript")  # what a bundle's graphs depend on beside this package


@dataclass(frozen=True)
class Identity:
    """What a bundle is made from.

    key      two builds with the same key give the same bundle
    weights  the same for the weight store alone: the options that only graphs depend on are not in it
    """

    key: str
    weights: str
    sources: tuple[SourceRecord, ...]
    options: BuildOptions
    toolchain: dict[str, str]
    base: SourceRecord | None


def identify(
    checkpoint: Checkpoint,
    plan: SkipPlan,
    options: BuildOptions,
    targets: Sequence[Target],
    base: Bundle | None,
    progress: Progress,
) -> Identity:
    """Take every byte of the checkpoint, hashed now or before, together with the resolved options and the tools' versions.

    targets  what engines are built for
    base     the bundle whose store is shared
    """
    sources = hash_sources(checkpoint, progress)
    toolchain = {"eas-export": __version__} | {tool: importlib.metadata.version(tool) for tool in TOOLS}
    resolved = options.model_copy(update={"skip": ",".join(map(str, plan.skipped)) or "none"})
    shared = _shared_store(base) if base else None
    tensors = [s.sha256 for s, path in zip(sources, checkpoint.files) if path not in checkpoint.tokenizer]
    numbers = weight_numbers(checkpoint.config, plan, options.precision, options.limits)
    engines = [target.model_dump(mode="json") for target in targets]
    # what the options came to, however given
    decided = [numbers, options.fold, options.limits.model_dump(), engines, options.opset]
    return Identity(
        key=key_of([s.sha256 for s in sources], decided, toolchain, shared and shared.sha256),
        weights=key_of(tensors, numbers, toolchain),
        sources=sources,
        options=resolved,
        toolchain=toolchain,
        base=shared,
    )


def hash_sources(checkpoint: Checkpoint, progress: Progress) -> tuple[SourceRecord, ...]:
    """A record of each of its files. Raises UserError where one was replaced since it was loaded."""
    with progress.stage("reading the checkpoint's identity", sum(p.stat().st_size for p in checkpoint.files)) as done:
        sources = tuple(_source_record(path, done) for path in checkpoint.files)
    checkpoint.require_unchanged()
    return sources


def weight_numbers(config: AnyConfig, plan: SkipPlan, precision_name: str, limits: Limits) -> list:
    """What decides the store's tensors beside the checkpoint's: RoPE's tables are as long as max_tokens."""
    return [precision_name, limits.max_tokens, config.model_dump(mode="json"), list(plan.skipped)]


def graph_key(
    spec: GraphSpec, config: AnyConfig, plan: SkipPlan, options: BuildOptions, store: Store, toolchain: dict[str, str]
) -> str:
    """What decides a graph's file: what it computes and where its weights lie, not what they are."""
    places = [(e.file.name, e.name, e.dtype, e.shape, e.offset) for e in store.entries.values()]
    decided = [plan.skipped, options.max_tokens, options.opset]
    return key_of(spec.model_dump(), config.structure(), decided, sorted(places), toolchain)


def _shared_store(base: Bundle) -> SourceRecord:
    record = base.manifest.files[WEIGHTS]
    return SourceRecord(name=base.path.resolve().name, bytes=record.bytes, sha256=record.sha256)


def _source_record(path: Path, done: Callable[[int], None]) -> SourceRecord:
    return SourceRecord(name=path.name, bytes=path.stat().st_size, sha256=remembered_sha256(path, done))
