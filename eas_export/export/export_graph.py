"""One graph of the fold mode's table, from its spec to an ONNX model."""

import onnx_ir as ir

from ..any_config import AnyConfig
from ..config import Limits
from ..graph import GraphSpec
from ..model.network import build_network
from ..plan import SkipPlan
from ..precision import Precision
from ..recipe import DEFAULT_OPSET
from .graphs import Graph
from .passes import lower
from .recorder import record


def export_graph(
    graph: Graph,
    config: AnyConfig,
    plan: SkipPlan,
    precision: Precision,
    limits: Limits,
    opset: int = DEFAULT_OPSET,
) -> tuple[GraphSpec, ir.Model]:
    """The graph's spec and its model, recorded from a network without weights and written down in the opset; initializers have names
    and shapes, but no values."""
    spec = graph.spec(config, plan, precision, limits)
    module = graph.module(build_network(config, plan, precision, limits))
    return spec, lower(record(module, spec), opset)
