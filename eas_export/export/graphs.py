"""Which graphs a bundle has, by kind of network and fold mode. A graph is a module, and a spec of its inputs and outputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from ..any_config import AnyConfig
from ..graph import GraphSpec
from ..plan import SkipPlan
from .decode_graph import (
    FoldedDecodeGraph,
    PlainDecodeGraph,
    UnfoldedDecodeGraph,
    folded_decode_reads,
    folded_decode_spec,
    unfolded_decode_reads,
    unfolded_decode_spec,
)
from .encode_graph import encode_module, encode_reads, encode_spec
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

# none: there are no adapters
WITHOUT_ADAPTERS = {"none": _PROMPT | {"decode": Graph(PlainDecodeGraph, unfolded_decode_spec, unfolded_decode_reads)}}

# offline: one pass, whose adapters see no prompt and are folded once and for all
CROSS_ENCODER = {"offline": {"encode": Graph(encode_module, encode_spec, encode_reads)}}

# Kind of network (a config's) -> config -> its fold modes
GRAPHS: Mapping[str, Callable[[AnyConfig], Mapping[str, Mapping[str, Graph]]]] = {
    "decoder": lambda config: DECODER if config.has_adapters else WITHOUT_ADAPTERS,
    "cross-encoder": lambda config: CROSS_ENCODER,
}


def fold_modes(config: AnyConfig) -> Mapping[str, Mapping[str, Graph]]:
    """Fold mode -> graph's name -> Graph, for this kind of network; the first is the default."""
    return GRAPHS[config.kind](config)


def graphs_of(config: AnyConfig, fold: str) -> Mapping[str, Graph]:
    """The graphs of one fold mode."""
    return fold_modes(config)[fold]
