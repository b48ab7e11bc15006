"""Keys of a bundle and of its files: hashes of everything that decides their content, never of names or times."""

import importlib.metadata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..bundle.bundle import Bundle
from ..bundle.manifest import WEIGHTS, SourceRecord, Target
from ..bundle.store import Store
from ..checkpoint.checkpoint import Checkpoint
from ..checkpoint.hf_files import CONFIG_FILE
from ..core.configs import AnyConfig
from ..core.graph_spec import GraphSpec
from ..core.options import BuildOptions, options_of
from ..core.plan import SkipPlan
from ..core.progress import Progress
from ..system.hashing import key_of, remembered_sha256

TOOLS = ("torch", "onnx", "onnx-ir", "onnxscript")  # packages that a bundle's graphs depend on


@dataclass(frozen=True)
class Identity:
    """What a bundle is made from.

    key      two builds with the same key give the same bundle
    weights  the same for the weight store only: without options that only graphs depend on
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
    """The identity of a build, from the checkpoint's bytes (hashed now or before), the resolved options and the tools' versions.

    targets  of the engines
    base     the bundle whose store is shared
    """
    sources = hash_sources(checkpoint, progress)
    toolchain = {"eas-export": __version__} | {tool: importlib.metadata.version(tool) for tool in TOOLS}
    resolved = options.model_copy(update={"skip": ",".join(map(str, plan.skipped)) or "none"})
    shared = _shared_store(base) if base else None
    beside = {path for path in checkpoint.tokenizer if path.name != CONFIG_FILE}  # files that decide no tensor
    tensors = [source.sha256 for source, path in zip(sources, checkpoint.files) if path not in beside]
    numbers = weight_numbers(checkpoint.config, plan, options)
    engines = [target.model_dump(mode="json") for target in targets]
    read = [source.sha256 for source in sources] + ([key_of(checkpoint.labels)] if checkpoint.labels else [])
    others = _beside_weights(options, {"limits": options.limits.model_dump(), "targets": engines})
    return Identity(
        key=key_of(read, [numbers, *others], toolchain, shared and shared.sha256),
        weights=key_of(tensors, numbers, toolchain),
        sources=sources,
        options=resolved,
        toolchain=toolchain,
        base=shared,
    )


def hash_sources(checkpoint: Checkpoint, progress: Progress) -> tuple[SourceRecord, ...]:
    """Hash the checkpoint's files. Raises UserError if one has changed since it was loaded."""
    with progress.stage("reading the checkpoint's identity", sum(p.stat().st_size for p in checkpoint.files)) as done:
        sources = tuple(_source_record(path, done) for path in checkpoint.files)
    checkpoint.require_unchanged()
    return sources


def weight_numbers(config: AnyConfig, plan: SkipPlan, options: BuildOptions) -> list:
    """What decides the store's tensors, besides the checkpoint's bytes."""
    values = _values(options, "weights", ("config", "plan"))
    return [*values, config.model_dump(mode="json"), list(plan.skipped)]


def graph_key(
    spec: GraphSpec, config: AnyConfig, plan: SkipPlan, options: BuildOptions, store: Store, toolchain: dict[str, str]
) -> str:
    """The key of a graph's file: what it computes and where its weights are in the store, not their values."""
    places = [(e.file.name, e.name, e.dtype, e.shape, e.offset) for e in store.entries.values()]
    decided = [plan.skipped, *_values(options, "graphs", ("config", "plan", "spec", "limits"))]
    return key_of(spec.model_dump(), config.structure(), decided, sorted(places), toolchain)


def _values(options: BuildOptions, decided: str, shown: Collection[str]) -> list:
    """The values of the options that decide such files, except those that another part of the key reflects."""
    about = options_of(type(options)).items()
    return [getattr(options, name) for name, each in about if decided in each.decides and each.shown_by not in shown]


def _beside_weights(options: BuildOptions, shown: Mapping[str, Any]) -> list:
    """The options that decide graphs or engines, but not weights: their values, or what reflects several of them, once."""
    about = options_of(type(options)).items()
    others = [(name, each.shown_by) for name, each in about if each.decides and "weights" not in each.decides]
    return [*{by if by in shown else name: shown.get(by, getattr(options, name)) for name, by in others}.values()]


def _shared_store(base: Bundle) -> SourceRecord:
    record = base.manifest.files[WEIGHTS]
    return SourceRecord(name=base.path.resolve().name, bytes=record.bytes, sha256=record.sha256)


def _source_record(path: Path, done: Callable[[int], None]) -> SourceRecord:
    return SourceRecord(name=path.name, bytes=path.stat().st_size, sha256=remembered_sha256(path, done))
