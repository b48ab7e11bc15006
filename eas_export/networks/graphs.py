"""The fold modes of networks, and the graphs of each. A graph is a module, and a spec of its inputs and outputs."""

from collections.abc import Mapping

from ..core.configs import AnyConfig
from ..core.registry import load
from . import NETWORKS, network_part
from .contract import FoldMode, Graph


def every_fold_mode() -> Mapping[str, FoldMode]:
    """The fold modes of all kinds of networks, by name."""
    return {name: mode for network in NETWORKS.values() for name, mode in load(network.fold_modes).items()}


def fold_modes(config: AnyConfig) -> tuple[str, ...]:
    """The fold modes that a network supports; the first is the default."""
    modes = network_part(config, "fold_modes").items()
    return tuple(name for name, mode in modes if not mode.routers or config.router in mode.routers)


def takes_one_prompt(config: AnyConfig, fold: str) -> bool:
    """Whether a fold mode's graphs take one prompt at a time: they compute its own weights."""
    return "fold" in graphs_of(config, fold)


def graphs_of(config: AnyConfig, fold: str) -> Mapping[str, Graph]:
    """The graphs of one fold mode, by name, in the order in which they run."""
    places = network_part(config, "fold_modes")[fold].graphs
    return {name: load(place) for name, place in places.items() if name not in config.absent_graphs}
