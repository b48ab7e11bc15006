"""The records that a kind of network fills in. No torch here: --help shows tables of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core.graph_spec import GraphSpec
from ..core.plan import SkipPlan

if TYPE_CHECKING:
    from torch import nn

    from ..core.configs.adapter import Router


@dataclass(frozen=True)
class Graph:
    """One graph of a network.

    module  network -> a module with forward(inputs by name) -> outputs by name
    spec    (config, plan, precision, limits) -> GraphSpec
    reads   (plan, a parameter's name in the store) -> whether the graph reads it
    """

    module: "Callable[[nn.Module], nn.Module]"
    spec: Callable[..., GraphSpec]
    reads: Callable[[SkipPlan, str], bool]


@dataclass(frozen=True)
class FoldMode:
    """How a bundle computes the adapters.

    help     for --help
    graphs   name -> ".module:GRAPH", in the order in which they run; those of a config's `absent_graphs` are left out
    routers  the routers that it takes (a config's `router`, None without adapters); empty: any
    settles  what becomes of routers that read the modality token (AdapterConfig.router)
    """

    help: str
    graphs: Mapping[str, str]
    routers: "tuple[Router | None, ...]" = ()
    settles: "Router" = "constant"


@dataclass(frozen=True)
class Costs:
    """Counts for accounting; pairs are before and after pruning.

    parts    part -> strings of which its tensors' names contain one; a tensor belongs to the first part that fits
    trained  part -> its number of parameters in training, where fine-tuning may have removed some
    folded   the part whose tensors the build folds into others, empty for none
    kv       elements of one row's caches per token
    flops    of one pass over one row; 0 where a pass has no fixed size
    """

    parts: Mapping[str, tuple[str, ...]]
    trained: Mapping[str, int]
    folded: str
    kv: tuple[int, int]
    flops: tuple[int, int]
