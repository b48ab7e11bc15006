"""Which graphs a bundle has, by kind of network and fold mode. A graph is a module, and a spec of its inputs and outputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from ..config import ModelConfig
from ..graph import GraphSpec
from ..plan import SkipPlan
from .decode_graph import (
    FoldedDecodeGraph,
    UnfoldedDecodeGraph,
    folded_decode_reads,
    folded_decode_spec,
    unfolded_decode_reads,
    unfolded_decode_spec,
)
from .fold_graph import FoldGraph, fold_reads, fold_spec
from .prefill_graph import PrefillGraph, prefill_reads, prefill_spec
from .vision_graph import VisionGraph, vision_reads, vision_spec


@dataclass(frozen=True)
class Graph:
    """module(network).forward(inputs by name) -> outputs by name; spec(config, plan, precision, limits) -> GraphSpec; reads(plan,
    parameter's name in the store) -> whether it is one of the graph's"""

    module: Callable[[nn.Module], nn.Module]
    spec: Callable[..., GraphSpec]
    reads: Callable[[SkipPlan, str], bool]


_PROMPT = {
    "vision": Graph(VisionGraph, vision_spec, vision_reads),
    "prefill": Graph(PrefillGraph, prefill_spec, prefill_reads),
}

# The decoder's. weights: one prompt at a time, its adapters folded into the weights (the paper)
# lowrank: any batch, the adapters stay beside shared weights, frozen at each prompt's state; also the reference's form
DECODER: Mapping[str, Mapping[str, Graph]] = {
    "weights": _PROMPT
    | {
        "fold": Graph(FoldGraph, fold_spec, fold_reads),
        "decode": Graph(FoldedDecodeGraph, folded_decode_spec, folded_decode_reads),
    },
    "lowrank": _PROMPT | {"decode": Graph(UnfoldedDecodeGraph, unfolded_decode_spec, unfolded_decode_reads)},
}

GRAPHS = {"decoder": DECODER}


def fold_modes(config: ModelConfig) -> Mapping[str, Mapping[str, Graph]]:
    """Fold mode -> graph's name -> Graph, for this kind of network; the first is the default."""
    return GRAPHS[config.kind]


def graphs_of(config: ModelConfig, fold: str) -> Mapping[str, Graph]:
    """The graphs of one fold mode."""
    return fold_modes(config)[fold]
