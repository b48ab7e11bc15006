"""The records that a kind of network fills in. No torch here: tables of them are shown by --help."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core.graph_spec import GraphSpec
from ..core.plan import SkipPlan

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Graph:
    """module(network).forward(inputs by name) -> outputs by name; spec(config, plan, precision, limits) -> GraphSpec; reads(plan,
    parameter's name in the store) -> whether it is one of the graph's"""

    module: "Callable[[nn.Module], nn.Module]"
    spec: Callable[..., GraphSpec]
    reads: Callable[[SkipPlan, str], bool]


@dataclass(frozen=True)
class FoldMode:
    """What a bundle makes of the adapters.

    help        what it means to a user
    graphs      name -> ".module:GRAPH", in the order in which they run
    adapters    whether it is for networks that have adapters, or for those that have none
    one_prompt  whether its graphs take one prompt at a time
    """

    help: str
    graphs: Mapping[str, str]
    adapters: bool = True
    one_prompt: bool = False


@dataclass(frozen=True)
class Costs:
    """What a kind of network costs.

    parts   part -> what marks a tensor's name as belonging to it; the first that fits counts
    trained  part -> its numbers when the model was trained, where fine-tuning may have removed some
    folded  part whose tensors are in others after the build, empty for none
    kv      numbers of one row's caches per token, before and after
    flops   of one pass over one row, before and after; 0 where a pass has no fixed size
    """

    parts: Mapping[str, str]
    trained: Mapping[str, int]
    folded: str
    kv: tuple[int, int]
    flops: tuple[int, int]
