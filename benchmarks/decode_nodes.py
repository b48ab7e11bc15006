"""How many nodes a decode step has in each fold mode, and without any adapter.

    python benchmarks/decode_nodes.py --shape 7B

The bars: folding leaves no node of the adapters; low-rank costs three nodes per layer and at most 17 for all layers together.
Recorded from a skeleton, no weights are needed.
"""

import argparse

from common import write_result
from synthetic import SHAPES
from trace_skeleton import skeleton

from eas_export.core.options import BuildOptions
from eas_export.core.precision import PRECISIONS
from eas_export.export.export_graph import export_graph
from eas_export.networks.drop import drop_adapters
from eas_export.networks.graphs import fold_modes, graphs_of
from eas_export.networks.memory import request_memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="7B")
    parser.add_argument("--precision", choices=["fp32", "fp16"], default="fp16")
    given = parser.parse_args()
    precision, (checkpoint, plan) = PRECISIONS[given.precision], skeleton(given.shape)
    modes = {mode: (checkpoint.config, mode) for mode in fold_modes(checkpoint.config)}
    nodes = {}
    for name, (config, fold) in (modes | {"floor": (drop_adapters(checkpoint).config, "none")}).items():
        limits = BuildOptions(precision=given.precision, fold=fold).limits
        _, model = export_graph(graphs_of(config, fold)["decode"], config, plan, precision, limits)
        nodes[name] = sum(1 for _ in model.graph)
    request = request_memory(checkpoint.config, plan, precision)
    write_result(
        f"decode_nodes_{given.shape}_{given.precision}",
        {
            "shape": given.shape,
            "layers": plan.sites,
            "skipped": len(plan.skipped),
            "nodes": nodes,
            "weights_beyond_floor": nodes["weights"] - nodes["floor"],
            "lowrank_beyond_floor": nodes["lowrank"] - nodes["floor"],
            "request": {mode: memory.model_dump() for mode, memory in request.items()},
        },
        bars={"weights_beyond_floor": 0, "lowrank_beyond_floor": 3 * plan.sites + 17},
    )


if __name__ == "__main__":
    main()
