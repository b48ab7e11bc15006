"""Estimate the disk, memory and time that each step needs, and refuse a build or verification that does not fit before it starts."""

import re
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

from ..bundle.bundle import Bundle, find_bundle
from ..checkpoint.lazy_tensor import LazyTensor
from ..core.configs import AnyConfig
from ..core.errors import UserError
from ..core.plan import SkipPlan
from ..core.precision import DTYPES, PRECISIONS
from ..core.record import Record
from ..networks import network_part
from ..networks.memory import request_memory
from ..system.machine import free_disk, free_memory
from .artifacts import Blueprint
from .keys import weight_numbers
from .workspace import unfinished_bytes

PROCESS = 400_000_000  # bytes: Python with PyTorch and the file readers
GRAPH_FILES = 10_000_000  # bytes on disk
ENGINE_FILE = 30_000_000  # bytes of a bound engine, from benchmarks/results/engines_7B_fp16_weights_bound.json
BUILDER = 900_000_000  # bytes of the process that builds an engine, without weights
BUILDER_COPIES = (
    2.0  # of embedded weights in the builder; 1.4 in benchmarks/results/engines_1B_fp16_weights_embedded.json
)
ENGINE_PER_BLOCK = 0.25  # seconds
# A small machine's rates, from benchmarks/results/real_size_7B_fp16_weights.json: 2 cores and a disk of 0.25 GB/s
READ, WRITE = 0.55e9, 0.25e9  # bytes/s
PER_BLOCK = 0.01  # seconds to record a block in two graphs, from benchmarks/results/trace_7B_fp16_weights.json
BLOCK = re.compile(r"\w*\.?\w*(layers|blocks)\.\d+")
PASS = 0.15e9  # bytes of weights/s when prompts go through the model once, in PyTorch or on a backend
FLOPS = 70e9  # of matrix products/s, from benchmarks/results/real_size_7B_fp16_weights.json
BUILD_PASSES = 6  # reference, fold, stored weights, three prompts
VERIFY_PASSES = 9  # the longest prompt and two published deviations beside that


class Estimate(Record):
    """Upper bounds of a step.

    disk_bytes     written beside the bundle; kept: permanently, otherwise while the step runs
    memory_bytes   private memory, without mapped files
    seconds        approximate
    """

    step: str
    disk_bytes: int = 0
    kept: bool = True
    memory_bytes: int
    seconds: float


def estimate_build(blueprint: Blueprint, out: Path, base: Bundle | None, verify: bool) -> tuple[Estimate, ...]:
    """The steps of a build to `out`. Files that may be reused, from an existing bundle, an unfinished build or the base, are not counted:
    whether they are equal is known only after hashing."""
    checkpoint, parameters = blueprint.checkpoint, blueprint.parameters
    config, sizes = checkpoint.config, [path.stat().st_size for path in checkpoint.files]
    read = sum(sizes)
    old, options = find_bundle(out), blueprint.options
    stores = [base.store] if base and _same_disk(base.path, out) else []
    if old and [source.bytes for source in old.manifest.sources] == sizes:
        m = old.manifest
        same = weight_numbers(m.config, m.plan, m.options) == weight_numbers(config, blueprint.plan, options)
        stores += [old.store] if same else []
    stored = {name: entry for store in stores for name, entry in store.entries.items()}
    own = {n: t for n, t in parameters.items() if n not in stored or stored[n].shape != t.shape}
    written = max(0, sum(_nbytes(t) for t in own.values()) - unfinished_bytes(out))
    largest = max(t.numel for t in parameters.values())
    by_block = _by_block(parameters)
    estimates = (
        Estimate(step="reading the checkpoint's identity", memory_bytes=PROCESS, seconds=read / READ),
        Estimate(
            step="writing weights",
            disk_bytes=written,
            memory_bytes=PROCESS + 8 * largest,  # two float32 copies of one tensor
            seconds=written / WRITE,
        ),
        Estimate(
            step="exporting graphs",
            disk_bytes=GRAPH_FILES,
            memory_bytes=PROCESS,
            seconds=PER_BLOCK * len(blueprint.graphs) / 2 * len(by_block),
        ),
    )
    if blueprint.targets:
        estimates = (*estimates, _engines(blueprint))
    if not verify:
        return estimates
    return (*estimates, _comparing(config, blueprint.plan, options.precision, options.fold, by_block, BUILD_PASSES, 1))


def _engines(blueprint: Blueprint) -> Estimate:
    """Bound engines contain kernels and small weights; embedded ones all weights of their graph, which the builder copies several times."""
    targets, device = blueprint.targets, blueprint.device_memory
    embedded = sum(target.weights == "embedded" for target in targets)
    engines = len(targets) * len(blueprint.graphs)
    blocks = len(_by_block(blueprint.parameters))
    return Estimate(
        step="building engines",
        disk_bytes=engines * ENGINE_FILE + embedded * device.embedded,
        memory_bytes=PROCESS + BUILDER + (round(BUILDER_COPIES * device.largest) if embedded else 0),
        seconds=len(targets) * ENGINE_PER_BLOCK * len(blueprint.graphs) / 2 * blocks
        + embedded * device.embedded / WRITE,
    )


def estimate_verify(bundle: Bundle) -> tuple[Estimate, ...]:
    """The steps of verifying a bundle."""
    m = bundle.manifest
    blocks, longest = _by_block(bundle.store.entries), m.limits.max_prompt
    return (_comparing(m.config, m.plan, m.precision, m.fold, blocks, VERIFY_PASSES, longest),)


def _comparing(
    config: AnyConfig,
    plan: SkipPlan,
    precision_name: str,
    fold: str,
    blocks: Mapping[str, int],
    passes: int,
    longest: int,
) -> Estimate:
    """The step of comparing with PyTorch.

    blocks   block -> number of its parameters; "" for those outside any block
    passes   of samples through the whole model
    longest  tokens of the longest prompt, whose attention scores are in memory
    """
    precision = PRECISIONS[precision_name]
    total = sum(blocks.values()) * DTYPES[precision.dtype].size
    request = request_memory(config, plan, precision).get(fold)
    return Estimate(
        step="comparing with PyTorch",
        disk_bytes=request.folded_weights_bytes if request else 0,
        kept=False,
        memory_bytes=PROCESS + network_part(config, "reference_bytes")(config, blocks, longest),
        seconds=total / READ
        + passes * (total / PASS + 2 * sum(blocks.values()) * network_part(config, "pass_tokens")(config) / FLOPS),
    )


def check_resources(estimates: Sequence[Estimate], folder: Path, instead: str) -> None:
    """Raise UserError unless disk and memory suffice.

    folder   where files are written
    instead  an alternative fix when the disk is full
    """
    disk, memory = free_disk(folder), free_memory()
    kept = sum(each.disk_bytes for each in estimates if each.kept)
    written = kept + max((each.disk_bytes for each in estimates if not each.kept), default=0)
    if written > disk:
        what = f"{_gb(written)} of disk are needed, but {_gb(disk)} are free" + _steps(estimates)
        raise UserError(what, where=folder, fix=f"free some space, or {instead}")
    largest = max(estimates, key=lambda each: each.memory_bytes)
    if largest.memory_bytes > memory:
        what = f"{largest.step} takes up to {_gb(largest.memory_bytes)} of memory, but {_gb(memory)} are free"
        raise UserError(what, where="memory", fix="end other programs, or use a machine with more memory")


def _same_disk(path: Path, out: Path) -> bool:
    """Whether `path` can be linked into `out`."""
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    return path.stat().st_dev == parent.stat().st_dev


def _by_block(tensors: Mapping) -> dict[str, int]:
    """Block ("layers.3", "vision.blocks.0", "vision" for the rest of a tower, "" for other tensors) -> number of parameters. tensors:
    values with a shape."""
    counts: dict[str, int] = {}
    for name, tensor in tensors.items():
        match = BLOCK.match(name)
        block = match[0] if match else "vision" if name.startswith("vision.") else ""
        counts[block] = counts.get(block, 0) + prod(tensor.shape)
    return counts


def _nbytes(tensor: LazyTensor) -> int:
    return tensor.numel * tensor.dtype.itemsize


def _steps(estimates: Sequence[Estimate]) -> str:
    parts = [f"{each.step} {_gb(each.disk_bytes)}" for each in estimates if each.disk_bytes > GRAPH_FILES]
    return f" ({', '.join(parts)})" if parts else ""


def _gb(number: float) -> str:
    return f"{number / 1e9:.2f} GB"
