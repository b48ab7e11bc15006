"""Which graphs a bundle has, by its network's fold mode. A graph is a module, and a spec of its inputs and outputs."""

from collections.abc import Mapping

from ..core.configs import AnyConfig
from ..core.registry import load
from . import network_part
from .contract import Graph


def fold_modes(config: AnyConfig) -> tuple[str, ...]:
    """Those that this network can be built in; the first is the default."""
    return tuple(network_part(config, "graphs")(config))


def graphs_of(config: AnyConfig, fold: str) -> Mapping[str, Graph]:
    """Graph's name -> the graph, of one fold mode."""
    return {name: load(place) for name, place in network_part(config, "graphs")(config)[fold].graphs.items()}
