"""One graph of the fold mode's table, from its spec to a clean ONNX model."""

import onnx_ir as ir

from ..config import Limits, ModelConfig
from ..families import get_family
from ..graph import GraphSpec
from ..model.network import build_network
from ..plan import SkipPlan
from ..precision import Precision
from .graphs import Graph
from .passes import clean
from .trace import trace


def export_graph(
    graph: Graph, config: ModelConfig, plan: SkipPlan, precision: Precision, limits: Limits
) -> tuple[GraphSpec, ir.Model]:
    """The graph's spec and its model, traced on a skeleton and cleaned; initializers have names and shapes, but no values."""
    spec = graph.spec(config, plan, precision, limits)
    vision = get_family(config.family).vision
    return spec, clean(trace(lambda: graph.module(build_network(config, plan, precision, limits, vision)), spec))
