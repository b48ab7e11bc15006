"""EAS and the systems that it is compared with in one race, all over one base model of real shape, with random adapters: for speed alone.

    python benchmarks/comparison.py --scratch DIR     20 GB of disk, 18 GB of memory, ten minutes on two cores

The shape has the layers and the proportions of LLaMA-7B and a billion parameters, so that 4 to 16 of 32 attentions (EAS)
and 2 to 8 of 32 layers (DAS) can go as in the paper's Tables 1, 3, 5 and 7. Every system is built from a checkpoint in its published
format, as `eas-export build` does it, and all are timed in the same rounds (`eas-export bench`), LaVIN with folded adapters as the one that
the others are compared with: what EAS saves beyond what LaVIN can have by folding.

A sample is a prompt of text and an answer; its FLOPs and bytes are counted from shapes (eas_export/bench/roofline.py). FFN skips have no
published formula: their rows, marked as our reading, are counts alone, of an adapter of rank 32 in place of the feed-forward network.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from common import write_result
from synthetic import SHAPES as EAS_SHAPES
from synthetic import Shape, Trained, eas, write_adapters, write_checkpoint
from synthetic_comparators import lavin, lavin_das, lavin_lora

from eas_export.bench.report import BenchReport
from eas_export.bench.roofline import work_of
from eas_export.bench.run import bench
from eas_export.bench.stages import ANSWER, DECODE, PREFILL
from eas_export.bench.systems import SYSTEMS, System
from eas_export.bundle.bundle import Bundle
from eas_export.cli.progress import make_progress
from eas_export.core.precision import DTYPES, PRECISIONS
from eas_export.core.progress import Progress
from eas_export.networks.network import build_network, parameter_shapes
from eas_export.pipeline import build

PACKAGES = ("torch", "onnx", "onnxruntime")
_SMALL_TOWER = {"clip_width": 64, "clip_blocks": 4, "clip_image": 28}  # nobody looks at images here
SHAPES = {
    "1B": Shape(
        "1B",
        dim=1536,
        layers=32,
        heads=12,
        vocab=32000,
        multiple_of=256,
        rank=8,
        skip=(),
        **_SMALL_TOWER,
    ),
    "tiny": replace(EAS_SHAPES["demo"], skip=()),
}
TRAINED: dict[str, Callable[[Shape], Trained]] = {"eas": eas, "lavin": lavin, "das": lavin_das, "lora": lavin_lora}
SITES = {"eas": "attention", "das": "layer"}  # what a method skips
PAPER_LAYERS = 32  # of the models in the paper's tables
FOLDED, UNFOLDED, OURS, LORA = "lavin-folded", "lavin-unfolded", "eas-12", "lora"
WHY = {
    "lavin_folded_over_lora": "the steps have the same operators but for biases, and a step reads as many weights; folded q, k and v are inputs "
    "of the graph. From round to round their ratio spreads by more than what is missing: for the whole sample LoRA is the slower one"
}
BARS = {"eas_over_lavin_folded": 1.0, "lavin_folded_over_lora": 1.05}


@dataclass(frozen=True)
class Row:
    """One system of the table.

    method   of TRAINED
    skipped  of 32 attentions (EAS) or layers (DAS)
    fold     the fold mode that it is built in; None: the model's first
    paper    seconds per sample that were published, of a 7B on an A100
    """

    method: str
    skipped: int = 0
    fold: str | None = None
    paper: float | None = None


ROWS = {
    FOLDED: Row("lavin", fold="weights"),
    UNFOLDED: Row("lavin", fold="lowrank", paper=3.70),
    LORA: Row("lora", paper=2.22),
    "das-2": Row("das", 2, paper=3.44),
    "das-4": Row("das", 4, paper=3.23),
    "das-6": Row("das", 6, paper=3.06),
    "das-8": Row("das", 8),
    "eas-4": Row("eas", 4, "lowrank"),
    "eas-8": Row("eas", 8, "lowrank"),
    OURS: Row("eas", 12, "lowrank", paper=1.69),
    "eas-16": Row("eas", 16, "lowrank"),
    "eas-12-folded": Row("eas", 12, "weights", paper=1.69),
}
# Our reading of the paper's Table 3: attentions and feed-forward networks skipped, of 32
READINGS = {"ffn-12": (0, 12), "mixed-12": (6, 6)}
READ_RANK = 32  # of the adapter in place of a feed-forward network, at every width


@dataclass(frozen=True)
class Given:
    """prompt, new: tokens of a sample's prompt and answer; rounds: of a step, see bench/settings.Workload"""

    precision: str = "fp32"
    prompt: int = 48
    new: int = 16
    rounds: int = 24
    together: int = 8  # prompts of a batch, in the race of LaVIN's two forms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="1B")
    parser.add_argument("--precision", choices=["fp32", "fp16"], default=Given.precision)
    parser.add_argument("--prompt-tokens", type=int, default=Given.prompt)
    parser.add_argument("--new-tokens", type=int, default=Given.new)
    parser.add_argument("--rounds", type=int, default=Given.rounds, help="trials of each system for a step")
    parser.add_argument("--scratch", type=Path, help="where to put the files; default: the system's temporary folder")
    args, progress, start = parser.parse_args(), make_progress(False), time.monotonic()
    shape, given = SHAPES[args.shape], Given(args.precision, args.prompt_tokens, args.new_tokens, args.rounds)
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        bundles = build_all(Path(scratch), shape, ROWS, given, progress)
        counts = {name: counted(bundle, given) for name, bundle in bundles.items()}
        report = race(bundles, given, progress)
        mixed = race({name: bundles[name] for name in (FOLDED, UNFOLDED)}, given, progress, given.together)
    rows = {name: described(name, shape) | counts[name] | timed(report, name) for name in bundles}
    rows |= {name: reading(skips, shape, counts[UNFOLDED], given) for name, skips in READINGS.items()}
    figures = {
        "for": "speed, memory and sizes alone: weights and adapters are random",
        "shape": args.shape,
        "precision": given.precision,
        "workload": report.workload.model_dump(mode="json"),
        "systems": rows,
        "mixed_batch": mixed_batch(mixed, given.together),
        "seconds": round(time.monotonic() - start),
    }
    name = "comparison" if args.shape == "1B" else f"comparison_{args.shape}"
    write_result(name, figures | claims(rows), BARS, PACKAGES, WHY)


def claims(rows: Mapping[str, dict]) -> dict[str, float]:
    """The figures that have bars."""
    return {
        "eas_over_lavin_folded": round(rows[OURS]["sample_over_lavin_folded"]["p50"], 4),
        "lavin_folded_over_lora": round(1 / rows[LORA]["step_over_lavin_folded"]["p50"], 4),
    }


def build_all(scratch: Path, shape: Shape, names: Iterable[str], given: Given, progress: Progress) -> dict[str, Bundle]:
    """A bundle of each system. Their weights are one file where they are the same: that of LaVIN beside its adapters, which has them all."""
    base, bundles = write_checkpoint(scratch / "base", shape), {}
    limits = {"max_prompt": given.prompt, "max_tokens": given.prompt + given.new}
    for name in sorted(names, key=lambda name: name != UNFOLDED):
        row = ROWS[name]
        checkpoint = write_system(scratch / name, base, row.method, shape, layers_of(row.skipped, shape))
        over = next(iter(bundles.values())).path if bundles else None
        rows = given.together if row.method == "lavin" else 1
        options = {"precision": given.precision, "max_batch": rows, "verify": False, "base": over} | limits
        bundles[name] = build(
            checkpoint, scratch / f"{name}.bundle", fold=row.fold, progress=progress, **options
        ).bundle
    return {name: bundles[name] for name in names}


def write_system(out: Path, base: Path, method: str, shape: Shape, skipped: int) -> Path:
    """A checkpoint over the base model's files, which are linked; the last layers are the skipped ones."""
    shape = replace(shape, skip=tuple(range(shape.layers - skipped, shape.layers)))
    out.mkdir()
    for part in ("weights", "clip"):
        (out / part).symlink_to((base / part).resolve())
    write_adapters(out / "checkpoint-19.pth", TRAINED[method](shape), torch.Generator().manual_seed(1))
    return out


def layers_of(skipped: int, shape: Shape) -> int:
    """So many of the paper's 32 layers, in proportion and rounded up."""
    return -(-skipped * shape.layers // PAPER_LAYERS)


def mixed_batch(report: BenchReport, rows: int) -> dict:
    """What a step of a batch that may hold prompts of both modalities costs more: adapters beside the weights, over weights of one."""
    over = {each.part: each.ratio.model_dump() for each in report.against}
    return {"prompts": rows, "step_over_one_modality": over[DECODE.format(rows)]}


def race(bundles: Mapping[str, Bundle], given: Given, progress: Progress, rows: int = 1) -> BenchReport:
    """All in the same rounds, decoding `rows` prompts together. The first is the one that the others are compared with."""
    first, *others = bundles
    SYSTEMS.update({name: System(ROWS[name].method, ROWS[name].fold, SITES.get(ROWS[name].method)) for name in others})
    return bench(
        bundles[first],
        against=[],
        against_ckpt={name: bundles[name].path for name in others},
        prompt_tokens=given.prompt,
        new_tokens=given.new,
        batches=(rows,),
        rounds=given.rounds,
        progress=progress,
    )


def described(name: str, shape: Shape) -> dict:
    row = ROWS[name]
    skips = {"skipped": layers_of(row.skipped, shape), "of": shape.layers, "skipped_of_32": row.skipped}
    return {"method": row.method, "fold": row.fold, **skips, "paper_seconds": row.paper}


def reading(skips: tuple[int, int], shape: Shape, lavin: Mapping[str, int], given: Given) -> dict:
    """Counts of a row of READINGS, from those of LaVIN with its adapters beside the weights."""
    attentions, ffns = (layers_of(count, shape) for count in skips)
    d, tokens, steps = shape.dim, given.prompt + given.new, range(given.prompt + 1, given.prompt + given.new + 1)
    pairs = given.prompt * (given.prompt + 1) // 2 + sum(steps)  # of a token and one that it attends to
    weights = attentions * 4 * d * d + ffns * (3 * d * shape.ffn - 2 * d * READ_RANK)
    size = DTYPES[PRECISIONS[given.precision].dtype].size
    return {
        "our_reading": True,
        "skipped": attentions + ffns,
        "of": shape.layers,
        "skipped_of_32": sum(skips),
        "weight_bytes": lavin["weight_bytes"] - weights * size,
        "kv_bytes_per_token": lavin["kv_bytes_per_token"] * (shape.layers - attentions) // shape.layers,
        "sample_flops": lavin["sample_flops"] - 2 * weights * tokens - attentions * 4 * d * pairs,
    }


def counted(bundle: Bundle, given: Given) -> dict:
    """Counts from shapes: weights that its graphs read, caches, and the operations of a sample."""
    m = bundle.manifest
    network = build_network(m.config, m.plan, PRECISIONS[m.precision], m.limits)
    weights = sum(bundle.store.entries[name].nbytes for name in parameter_shapes(network))
    once = [work_of(bundle, graph, sizes(given.prompt)).flops for graph in ("prefill", "fold") if graph in m.graphs]
    steps = [work_of(bundle, "decode", sizes(given.prompt + i + 1)).flops for i in range(given.new)]
    return {
        "weight_bytes": weights,
        "kv_bytes_per_token": m.accounts.after.kv_bytes_per_token,
        "sample_flops": sum(once) + sum(steps),
    }


def sizes(slots: int) -> dict[str, int]:
    return {"B": 1, "S": slots, "T": slots, "M": 1, "N": 1}


def timed(report: BenchReport, name: str) -> dict:
    """Seconds and memory of a system, and a sample's time over LaVIN's with folded adapters, round by round."""
    key = name if name in report.baselines else report.subject
    result = report.baselines[key]
    if result.why_not or result.step is None:
        raise SystemExit(f"{name} was not timed: {result.why_not or result.refused}")
    over = {each.part: each.ratio.model_dump() for each in report.against if each.of == key}
    same = {"p10": 1.0, "p50": 1.0, "p90": 1.0}
    return {
        "sample_seconds": result.parts[ANSWER].seconds.model_dump(),
        "prefill_seconds": result.parts[PREFILL].seconds.model_dump(),
        "step_seconds": result.step.seconds.model_dump(),
        "sample_over_lavin_folded": over.get(ANSWER, same),
        "step_over_lavin_folded": over.get(DECODE.format(1), same),
        "peak_bytes": result.memory.peak_bytes,
        "private_bytes": result.memory.private_bytes,
    }


if __name__ == "__main__":
    main()
