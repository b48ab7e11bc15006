"""What a decode step costs in each fold mode, against the adapter-free floor, and what folding costs once per prompt.

    python benchmarks/fold_modes.py --shape 1B --precision fp32

ONNX Runtime on the CPU, a synthetic checkpoint, one prompt of --prompt tokens. The three decode graphs take turns, step by step, so
that a busy machine slows all of them: ratios are medians of the ratios of one turn, with the 10th and 90th percentile. A step at
batch 1 reads every weight once: memory bandwidth rules. Then low-rank alone with more rows, which share the weights.

All graphs read one mapping of one store. The bars are on the medians. The 1B shape needs 9 GB of disk in --scratch and of memory.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import onnx_ir as ir
import torch
from common import write_result
from floor import FLOOR
from synthetic import SHAPES, write_checkpoint

from eas_export.backends.onnxruntime import open_sessions
from eas_export.backends.runtime import Runtime
from eas_export.bundle import Bundle
from eas_export.conversation import Conversation, Prompts, decode_inputs, empty_caches
from eas_export.export.export_graph import export_graph
from eas_export.export.graphs import DECODER
from eas_export.export.weights import attach_weights
from eas_export.pipeline import build
from eas_export.precision import PRECISIONS

BATCHES = (1, 2, 4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="1B")
    parser.add_argument("--precision", choices=["fp32", "fp16"], default="fp32")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of the prompt")
    parser.add_argument("--turns", type=int, default=90, help="steps of each graph")
    parser.add_argument("--scratch", type=Path, help="where to put the files; default: the system's temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.scratch) as scratch:
        folder = write_checkpoint(Path(scratch) / "checkpoint", SHAPES[given.shape])
        options = {"precision": given.precision, "max_prompt": given.prompt, "max_tokens": 512, "verify": False}
        bundle = build(folder, Path(scratch) / "bundle", fold="weights", **options).bundle
        figures = measure(*open_all(bundle), given.prompt, given.turns)
    write_result(
        f"fold_modes_{given.shape}_{given.precision}",
        {"shape": given.shape, "prompt_tokens": given.prompt, "turns": given.turns} | figures,
        bars={"weights_over_floor": 1.02, "lowrank_over_floor": 1.05},
    )


def open_all(bundle: Bundle) -> tuple[Runtime, Runtime, Runtime]:
    """Folding, low-rank and the floor, all over one mapping of one store: the low-rank decode and the floor are put beside the
    bundle's own graphs."""
    m, precision = bundle.manifest, PRECISIONS[bundle.manifest.precision]
    limits = m.limits.model_copy(
        update={"max_batch": max(BATCHES)}
    )  # low-rank graphs take any batch, whatever they are built for
    decodes = {"lowrank": DECODER["lowrank"]["decode"], "floor": FLOOR}
    specs = {n: DECODER[m.fold][n].spec(m.config, m.plan, precision, limits) for n in m.graphs}
    for name, graph in decodes.items():
        spec, model = export_graph(graph, m.config, m.plan, precision, limits)
        ir.save(attach_weights(model, bundle.store), bundle.graph_file(name))
        specs[name] = spec.model_copy(update={"name": name})
    sessions = open_sessions(bundle, specs)
    own = {name: sessions[name] for name in m.graphs}
    folding = Runtime("onnxruntime", m.config, m.plan, m.limits, own)
    prompt = {name: sessions[name] for name in ("vision", "prefill")}
    lowrank = Runtime("onnxruntime", m.config, m.plan, limits, prompt | {"decode": sessions["lowrank"]})
    return folding, lowrank, Runtime("onnxruntime", m.config, m.plan, limits, {"decode": sessions["floor"]})


def measure(folding: Runtime, lowrank: Runtime, floor: Runtime, length: int, turns: int) -> dict:
    conversations = {
        mode: Conversation(runtime, prompts(runtime, 1, length), room=1)
        for mode, runtime in (("weights", folding), ("lowrank", lowrank))
    }
    slots = length + 1
    steps: dict[str, Callable[[], object]] = {"floor": step_of(floor, {}, 1, slots)}
    for mode, conversation in conversations.items():
        steps[mode] = step_of(conversation.runtime, conversation.folded or conversation.state, 1, slots)
    seconds = take_turns(steps, turns)
    state = conversations["weights"].state
    fold = statistics.median(timed(lambda: folding.run("fold", state)) for _ in range(5))
    figures: dict = {"step_seconds": {name: round(statistics.median(times), 5) for name, times in seconds.items()}}
    for mode in ("weights", "lowrank"):
        ratios = sorted(mine / floors for mine, floors in zip(seconds[mode], seconds["floor"]))
        figures[f"{mode}_over_floor"] = round(statistics.median(ratios), 4)
        figures[f"{mode}_over_floor_p10_p90"] = [round(ratios[len(ratios) * p // 100], 4) for p in (10, 90)]
    saved = statistics.median(low - folded for low, folded in zip(seconds["lowrank"], seconds["weights"]))
    figures["fold_seconds"] = round(fold, 3)
    figures["saved_per_folded_step_seconds"] = round(saved, 5)
    figures["break_even_tokens"] = round(fold / saved) if saved > 0 else None
    figures["lowrank_batches"] = batches(lowrank, length, max(5, turns // 4))
    return figures


def batches(lowrank: Runtime, length: int, turns: int) -> dict[str, dict[str, float]]:
    """Rows -> median seconds of a step and tokens per second, all sizes in turns."""
    steps = {}
    for rows in BATCHES:
        conversation = Conversation(lowrank, prompts(lowrank, rows, length), room=1)
        steps[str(rows)] = step_of(lowrank, conversation.state, rows, length + 1)
    seconds = {rows: statistics.median(times) for rows, times in take_turns(steps, turns).items()}
    return {
        rows: {"step_seconds": round(time_, 5), "tokens_per_second": round(int(rows) / time_, 2)}
        for rows, time_ in seconds.items()
    }


def prompts(runtime: Runtime, rows: int, length: int) -> Prompts:
    ids = torch.randint(runtime.config.vocab_size, (rows, length), generator=torch.Generator().manual_seed(0))
    return Prompts(ids, torch.full((rows,), length), torch.full_like(ids, -1))


def step_of(runtime: Runtime, adapters: dict, rows: int, slots: int) -> Callable[[], object]:
    """The same step again and again: into the last slot."""
    caches = empty_caches(runtime, rows, slots)
    token, lengths = torch.ones(rows, dtype=torch.int64), torch.full((rows,), slots - 1)
    return runtime.bind("decode", decode_inputs(token, lengths, caches, adapters)).run


def take_turns(steps: dict[str, Callable[[], object]], turns: int) -> dict[str, list[float]]:
    """Name -> seconds of each turn, after two turns that are not counted. Everyone is the first of a turn equally often."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for turn in range(turns + 2):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            spent = timed(steps[name])
            if turn >= 2:
                seconds[name].append(spent)
    return seconds


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
