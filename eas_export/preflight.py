"""What each step needs of disk, memory and time, against what is there: asked before any work."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from .assembly import Blueprint
from .bundle import TASK, WEIGHTS, Bundle
from .checkpoint.lazy import LazyTensor
from .config import ModelConfig, Record
from .errors import UserError
from .export.memory import request_memory
from .machine import free_disk, free_memory
from .plan import SkipPlan
from .precision import DTYPES, PRECISIONS

PROCESS = 400_000_000  # bytes: Python with PyTorch and the file readers
GRAPHS = 300_000_000  # bytes, while a graph is traced: skeletons have no weights
GRAPH_FILES = 10_000_000  # bytes on disk
# A small machine's rates, from benchmarks/results/real_size_7B_fp16_weights.json: 2 cores and a disk of 0.25 GB/s
READ, WRITE, COMPUTE, PER_BLOCK = (
    0.55e9,
    0.25e9,
    0.2e9,
    0.9,
)  # bytes/s, bytes/s, bytes of weights/s in the ledger, seconds


class Need(Record):
    """What a step takes at most.

    disk_bytes     written, beside the bundle for as long as the step lasts or (kept) for good
    memory_bytes   of its own; mapped files do not count
    seconds        about
    """

    step: str
    disk_bytes: int = 0
    kept: bool = True
    memory_bytes: int
    seconds: float


def build_needs(blueprint: Blueprint, old: Bundle | None, base: Bundle | None, verify: bool) -> tuple[Need, ...]:
    """The steps of a build.

    old, base  bundles whose stores may be taken over: what may be is not counted. Of the old one that is all or nothing, and can
               be told before the files are hashed by their sizes only
    """
    checkpoint, parameters = blueprint.checkpoint, blueprint.parameters
    config, sizes = checkpoint.config, [path.stat().st_size for path in checkpoint.files]
    read = sum(sizes)
    stores = [base.store] if base else []
    if old and [source.bytes for source in old.manifest.sources] == sizes:
        stores.append(old.store)
    stored = {name: entry for store in stores for name, entry in store.entries.items()}
    own = {n: t for n, t in parameters.items() if n not in stored or stored[n].shape != t.shape}
    written = sum(_nbytes(t) for t in own.values())
    largest = max(t.numel for t in parameters.values())
    blocks = 2 * config.layers + config.vision.blocks
    needs = (
        Need(step="reading the checkpoint's identity", memory_bytes=PROCESS, seconds=read / READ),
        Need(
            step="writing weights",
            disk_bytes=written,
            memory_bytes=PROCESS + 8 * largest,  # two float32 copies of one tensor
            seconds=written / WRITE,
        ),
        Need(
            step="exporting graphs",
            disk_bytes=GRAPH_FILES,
            memory_bytes=PROCESS + GRAPHS,
            seconds=PER_BLOCK * blocks,
        ),
    )
    if not verify:
        return needs
    options = blueprint.options
    return (*needs, _verify_need(config, blueprint.plan, options.precision, options.fold, _by_block(parameters)))


def bundle_needs(bundle: Bundle) -> tuple[Need, ...]:
    """The step of verifying a bundle."""
    m = bundle.manifest
    return (_verify_need(m.config, m.plan, m.precision, m.fold, _by_block(bundle.store.entries)),)


def _verify_need(
    config: ModelConfig, plan: SkipPlan, precision_name: str, fold: str, blocks: Mapping[str, int]
) -> Need:
    """The ledger's step: one block of the reference in float32 beside embeddings and head, or the vision tower, and one block widened.

    blocks  block -> the number of its parameters, "" for what is in none
    """
    precision = PRECISIONS[precision_name]
    decoder = max(count for block, count in blocks.items() if block.startswith("layers."))
    tower = sum(count for block, count in blocks.items() if block.startswith("vision"))
    total = sum(blocks.values()) * DTYPES[precision.dtype].size
    folded = request_memory(config, plan, precision)[fold].folded_weights_bytes
    return Need(
        step="comparing with PyTorch",
        disk_bytes=folded,
        kept=False,
        memory_bytes=PROCESS + 4 * max(blocks.get("", 0) + 3 * decoder, tower),  # a block, and copies while it is read
        seconds=total / READ + 4 * (total + folded) / COMPUTE,
    )


def require_room(needs: Sequence[Need], folder: Path, unfinished: int = 0) -> None:
    """Raise UserError unless disk and memory suffice.

    folder      where files go
    unfinished  bytes of an earlier build that are there already, and will be taken over or make room
    """
    disk, memory = free_disk(folder) + unfinished, free_memory()
    kept = sum(need.disk_bytes for need in needs if need.kept)
    written = kept + max((need.disk_bytes for need in needs if not need.kept), default=0)
    if written > disk:
        what = f"there is {_gb(disk)} of free disk, and {_gb(written)} are needed" + _steps(needs)
        fix = "free some space, choose another disk for --out, or build with --precision fp16, --base or --no-verify"
        raise UserError(what, where=folder, fix=fix)
    hungry = max(needs, key=lambda need: need.memory_bytes)
    if hungry.memory_bytes > memory:
        what = f"{hungry.step} takes up to {_gb(hungry.memory_bytes)} of memory, and {_gb(memory)} are free"
        raise UserError(what, where="memory", fix="end other programs, or use a machine with more")


def unfinished_bytes(out: Path) -> int:
    """What an unfinished build into `out` has on the disk."""
    folder = out.with_name(f".{out.name}.partial") / "bundle"
    return sum((folder / name).stat().st_size for name in (WEIGHTS, TASK) if (folder / name).is_file())


def _by_block(tensors: Mapping) -> dict[str, int]:
    """Block ("layers.3", "vision.blocks.0", "" for what is in none) -> parameters, from anything with shapes."""
    counts: dict[str, int] = {}
    for name, tensor in tensors.items():
        parts = name.split(".")
        depth = (
            2 if parts[0] == "layers" else 3 if parts[:2] == ["vision", "blocks"] else 1 if parts[0] == "vision" else 0
        )
        block = ".".join(parts[:depth])
        count = 1
        for size in tensor.shape:
            count *= size
        counts[block] = counts.get(block, 0) + count
    return counts


def _nbytes(tensor: LazyTensor) -> int:
    return tensor.numel * tensor.dtype.itemsize


def _steps(needs: Sequence[Need]) -> str:
    parts = [f"{need.step} {_gb(need.disk_bytes)}" for need in needs if need.disk_bytes > GRAPH_FILES]
    return f" ({', '.join(parts)})" if parts else ""


def _gb(number: float) -> str:
    return f"{number / 1e9:.2f} GB"
