"""A decoder's fold modes, each a row: what it is, and the graphs of a bundle that is built so."""

from collections.abc import Mapping

from ...core.configs.decoder import ModelConfig
from ..contract import FoldMode

_PROMPT = {"vision": ".networks.decoder.vision:VISION", "prefill": ".networks.decoder.prefill:PREFILL"}

WITH_ADAPTERS = {
    "weights": FoldMode(
        "one prompt at a time, its adapters folded into the weights (the paper)",
        _PROMPT | {"fold": ".networks.decoder.fold:FOLD", "decode": ".networks.decoder.decode:FOLDED_DECODE"},
    ),
    "lowrank": FoldMode(
        "any batch, adapters beside shared weights, frozen at each prompt's state",
        _PROMPT | {"decode": ".networks.decoder.decode:UNFOLDED_DECODE"},
    ),
}
WITHOUT_ADAPTERS = {
    "none": FoldMode("for models without adapters", _PROMPT | {"decode": ".networks.decoder.decode:PLAIN_DECODE"}),
}


def graphs(config: ModelConfig) -> Mapping[str, FoldMode]:
    """The fold modes of this decoder; one that reads text alone has no graph of a tower."""
    modes = WITH_ADAPTERS if config.has_adapters else WITHOUT_ADAPTERS
    return modes if config.vision else {name: mode.without("vision") for name, mode in modes.items()}
