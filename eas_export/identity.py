"""What decides a bundle's content. Keys are content, never names or times."""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import __version__
from .bundle import SourceRecord, sha256_of
from .checkpoint.checkpoint import Checkpoint
from .plan import SkipPlan
from .progress import Progress
from .recipe import BuildOptions

TOOLS = ("torch", "onnx", "onnx-ir", "onnxscript")  # what a bundle's graphs depend on beside this package


@dataclass(frozen=True)
class Identity:
    """key: two builds with the same key give the same bundle; the rest is what it was made from"""

    key: str
    sources: tuple[SourceRecord, ...]
    options: BuildOptions
    toolchain: dict[str, str]


def identify(checkpoint: Checkpoint, plan: SkipPlan, options: BuildOptions, progress: Progress) -> Identity:
    """Read every byte of the checkpoint once, and take it together with the resolved options and the tools' versions."""
    with progress.stage("reading the checkpoint's identity", sum(p.stat().st_size for p in checkpoint.files)) as done:
        sources = tuple(_source_record(path, done) for path in checkpoint.files)
    toolchain = {"eas-export": __version__} | {tool: importlib.metadata.version(tool) for tool in TOOLS}
    resolved = options.model_copy(update={"skip": ",".join(map(str, plan.skipped)) or "none"})
    content = [[record.sha256 for record in sources], resolved.model_dump(), toolchain]
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return Identity(key, sources, resolved, toolchain)


def _source_record(path: Path, done: Callable[[int], None]) -> SourceRecord:
    return SourceRecord(name=path.name, bytes=path.stat().st_size, sha256=sha256_of(path, done))
