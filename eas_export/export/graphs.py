"""Which graphs a bundle has, by fold mode. A graph is a module, and a spec of its inputs and outputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from ..graph import GraphSpec
from .decode_graph import FoldedDecodeGraph, UnfoldedDecodeGraph, folded_decode_spec, unfolded_decode_spec
from .fold_graph import FoldGraph, fold_spec
from .prefill_graph import PrefillGraph, prefill_spec
from .vision_graph import VisionGraph, vision_spec


@dataclass(frozen=True)
class Graph:
    """module(network).forward(inputs by name) -> outputs by name; spec(config, plan, precision, limits) -> GraphSpec"""

    module: Callable[[nn.Module], nn.Module]
    spec: Callable[..., GraphSpec]


_PROMPT = {"vision": Graph(VisionGraph, vision_spec), "prefill": Graph(PrefillGraph, prefill_spec)}

# weights: one prompt at a time, its adapters folded into the weights (the paper)
# lowrank: any batch, the adapters stay beside shared weights, frozen at each prompt's state; also the reference's form
FOLD_MODES: Mapping[str, Mapping[str, Graph]] = {
    "weights": _PROMPT | {"fold": Graph(FoldGraph, fold_spec), "decode": Graph(FoldedDecodeGraph, folded_decode_spec)},
    "lowrank": _PROMPT | {"decode": Graph(UnfoldedDecodeGraph, unfolded_decode_spec)},
}
