"""PyTorch as benchmarks/gpu.py measures it: the recorded modules, run eagerly; or captured, all kernels of a decode step as one CUDA graph,
without the time that the host takes to launch them one by one. The modules are the reference as it is written: attention is no fused kernel.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from floor import FLOOR

from eas_export.backends.pytorch import PyTorchSession, open_network, readers_of
from eas_export.backends.runtime import Runtime, Tensors
from eas_export.bundle.bundle import Bundle
from eas_export.core.precision import PRECISIONS
from eas_export.core.registry import load
from eas_export.networks.contract import Graph
from eas_export.networks.decoder.graphs import FOLD_MODES


class CapturedSession(PyTorchSession):
    """Bound steps are captured the first time, and replayed from the second time on."""

    def run(self, requests: Sequence[tuple[Tensors, Tensors]]) -> None:
        for inputs, outputs in requests:
            super().bind(inputs, outputs)()

    def bind(self, inputs: Tensors, outputs: Tensors) -> Callable[[], None]:
        eager, captured = super().bind(inputs, outputs), []

        def run() -> None:
            if captured:
                captured[0].replay()
                return
            eager()  # what libraries allocate on their first call is allocated outside of the graph
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                eager()
            captured.append(graph)

        return run


def open_pytorch(bundle: Bundle, device: torch.device) -> Runtime:
    """The bundle's weights on the device, adapters beside them."""
    m = bundle.manifest
    return open_network(m.config, m.plan, PRECISIONS[m.precision], m.limits, "lowrank", readers_of(bundle), device)


def with_graphs(runtime: Runtime, graphs: Mapping[str, Graph], precision: str, kind: type = PyTorchSession) -> Runtime:
    """Other graphs over the very weights of a PyTorch runtime."""
    network, limits = runtime.sessions["prefill"].module.network, runtime.limits
    if "fold" in graphs:
        limits = limits.model_copy(update={"max_batch": 1})
    sessions = {
        name: kind(graph.module(network), graph.spec(runtime.config, runtime.plan, PRECISIONS[precision], limits))
        for name, graph in graphs.items()
    }
    return replace(runtime, sessions=sessions, limits=limits)


# what a PyTorch mode runs; the floor is the decode step without adapters, no model that anybody would run
DECODER = {
    fold: {name: load(place) for name, place in mode.graphs.items()}
    for fold, mode in FOLD_MODES.items()
    if mode.adapters
}
PYTORCH_GRAPHS = {**DECODER, "floor": {"decode": FLOOR}, "unskipped": DECODER["lowrank"]}
