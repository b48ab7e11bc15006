"""Seconds and memory to record all graphs of a model of real size, without weights.

    python benchmarks/trace_skeleton.py --shape 7B --precision fp16

The bars: LaVIN-7B (32 layers of 4096, 12 attentions skipped) within 5 s, LaVIN-13B within 8 s, both in 0.6 GB on 2 cores.
"""

import argparse
import tempfile
import time
from pathlib import Path

from common import write_result
from synthetic import SHAPES, write_checkpoint

from eas_export.checkpoint.checkpoint import Checkpoint
from eas_export.core.options import BuildOptions
from eas_export.core.plan import SkipPlan, choose_plan
from eas_export.core.precision import PRECISIONS
from eas_export.export.export_graph import export_graph
from eas_export.families import load_checkpoint
from eas_export.families.contract import Sources
from eas_export.networks.graphs import graphs_of
from eas_export.system.machine import peak_memory

SECONDS = {"1B": 5, "7B": 5, "13B": 8}


def skeleton(shape: str) -> tuple[Checkpoint, SkipPlan]:
    """A checkpoint whose tensors are never read, and its skip plan."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_checkpoint(Path(scratch) / "skeleton", SHAPES[shape], skeleton=True)
        checkpoint = load_checkpoint(Sources(folder))
        return checkpoint, choose_plan(checkpoint.config.layers, checkpoint.evidence)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SECONDS, default="7B")
    parser.add_argument("--precision", choices=["fp32", "fp16"], default="fp16")
    parser.add_argument("--fold", choices=["weights", "lowrank"], default="weights")
    given = parser.parse_args()
    options = BuildOptions(precision=given.precision, fold=given.fold)
    checkpoint, plan = skeleton(given.shape)
    graphs = {}
    start = time.monotonic()
    for name, graph in graphs_of(checkpoint.config, given.fold).items():
        begin = time.monotonic()
        _, model = export_graph(graph, checkpoint.config, plan, PRECISIONS[given.precision], options.limits)
        graphs[name] = {"seconds": round(time.monotonic() - begin, 2), "nodes": sum(1 for _ in model.graph)}
    write_result(
        f"trace_{given.shape}_{given.precision}_{given.fold}",
        {
            "shape": given.shape,
            "graphs": graphs,
            "seconds": round(time.monotonic() - start, 2),
            "peak_memory_bytes": peak_memory(),
        },
        bars={"seconds": SECONDS[given.shape], "peak_memory_bytes": 0.6e9},
    )


if __name__ == "__main__":
    main()
