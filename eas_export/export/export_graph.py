"""Export one graph of a fold mode to an ONNX model."""

import onnx_ir as ir

from ..core.configs import AnyConfig
from ..core.graph_spec import GraphSpec
from ..core.limits import Limits
from ..core.options import DEFAULT_OPSET
from ..core.plan import SkipPlan
from ..core.precision import Precision
from ..networks.contract import Graph
from ..networks.network import build_network
from .lowerings import lower
from .recorder import record


def export_graph(
    graph: Graph, config: AnyConfig, plan: SkipPlan, precision: Precision, limits: Limits, opset: int = DEFAULT_OPSET
) -> tuple[GraphSpec, ir.Model]:
    """The graph's spec and its model, recorded from a network without weights and lowered to the opset; initializers have names and
    shapes, but no values."""
    spec = graph.spec(config, plan, precision, limits)
    module = graph.module(build_network(config, plan, precision, limits))
    return spec, lower(record(module, spec), opset)
