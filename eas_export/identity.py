"""What decides a bundle's content, and each of its files'. Keys are content, never names or times."""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import __version__
from .bundle import WEIGHTS, Bundle, SourceRecord
from .checkpoint.checkpoint import Checkpoint
from .config import Limits, ModelConfig
from .digests import remembered_sha256
from .graph import GraphSpec
from .plan import SkipPlan
from .progress import Progress
from .recipe import BuildOptions
from .store import Store

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
    checkpoint: Checkpoint, plan: SkipPlan, options: BuildOptions, base: Bundle | None, progress: Progress
) -> Identity:
    """Take every byte of the checkpoint, hashed now or before, together with the resolved options and the tools' versions.

    base  the bundle whose store is shared
    """
    with progress.stage("reading the checkpoint's identity", sum(p.stat().st_size for p in checkpoint.files)) as done:
        sources = tuple(_source_record(path, done) for path in checkpoint.files)
    toolchain = {"eas-export": __version__} | {tool: importlib.metadata.version(tool) for tool in TOOLS}
    resolved = options.model_copy(update={"skip": ",".join(map(str, plan.skipped)) or "none"})
    shared = _shared_store(base) if base else None
    tensors = [s.sha256 for s, path in zip(sources, checkpoint.files) if path != checkpoint.tokenizer]
    numbers = [options.precision, options.limits.max_tokens, checkpoint.config.model_dump(), plan.skipped]
    return Identity(
        key=key_of([s.sha256 for s in sources], resolved.model_dump(), toolchain, shared and shared.sha256),
        weights=key_of(tensors, numbers, toolchain),
        sources=sources,
        options=resolved,
        toolchain=toolchain,
        base=shared,
    )


def graph_key(
    spec: GraphSpec, config: ModelConfig, plan: SkipPlan, limits: Limits, store: Store, toolchain: dict[str, str]
) -> str:
    """What decides a graph's file: what it computes and where its weights lie, not what they are."""
    places = [(e.file.name, e.name, e.dtype, e.shape, e.offset) for e in store.entries.values()]
    return key_of(spec.model_dump(), config.structure(), plan.skipped, limits.max_tokens, sorted(places), toolchain)


def key_of(*content: Any) -> str:
    """One key for all this content, which JSON can write."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _shared_store(base: Bundle) -> SourceRecord:
    record = base.manifest.files[WEIGHTS]
    return SourceRecord(name=base.path.name, bytes=record.bytes, sha256=record.sha256)


def _source_record(path: Path, done: Callable[[int], None]) -> SourceRecord:
    return SourceRecord(name=path.name, bytes=path.stat().st_size, sha256=remembered_sha256(path, done))
