"""The adapter-free floor: the decode step with every adapter left out. It is what "zero extra latency" is measured against, not a
model that anybody would run."""

from eas_export.core.configs.decoder import ModelConfig
from eas_export.core.graph_spec import GraphSpec
from eas_export.core.limits import Limits
from eas_export.core.plan import SkipPlan
from eas_export.core.precision import Precision
from eas_export.networks.contract import Graph
from eas_export.networks.decoder.decode import PlainDecodeGraph, unfolded_decode_reads, unfolded_decode_spec


def floor_spec(config: ModelConfig, plan: SkipPlan, precision: Precision, limits: Limits) -> GraphSpec:
    """The low-rank decode's, without the fold state."""
    spec = unfolded_decode_spec(config, plan, precision, limits)
    inputs = tuple(tensor for tensor in spec.inputs if tensor.name not in ("router", "pooled"))
    return spec.model_copy(update={"name": "floor", "inputs": inputs})


FLOOR = Graph(PlainDecodeGraph, floor_spec, unfolded_decode_reads)
