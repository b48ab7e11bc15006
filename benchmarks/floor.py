"""The adapter-free floor: the decode step with every adapter left out. It is what "zero extra latency" is measured against, not a
model that anybody would run."""

from torch import Tensor, nn

from eas_export.config import Limits, ModelConfig
from eas_export.export.decode_graph import decode_step, unfolded_decode_reads, unfolded_decode_spec
from eas_export.export.graphs import Graph
from eas_export.graph import GraphSpec
from eas_export.plan import SkipPlan
from eas_export.precision import Precision


class FloorGraph(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return decode_step(self.network.decoder, inputs, lambda layer, block, n: block.project(n))


def floor_spec(config: ModelConfig, plan: SkipPlan, precision: Precision, limits: Limits) -> GraphSpec:
    """The low-rank decode's, without the fold state."""
    spec = unfolded_decode_spec(config, plan, precision, limits)
    inputs = tuple(tensor for tensor in spec.inputs if tensor.name not in ("router", "pooled"))
    return spec.model_copy(update={"name": "floor", "inputs": inputs})


FLOOR = Graph(FloorGraph, floor_spec, unfolded_decode_reads)
