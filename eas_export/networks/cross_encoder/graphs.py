"""A cross-encoder's fold mode: one pass, whose adapters see no prompt."""

from collections.abc import Mapping

from ...core.configs.cross_encoder import CrossEncoderConfig
from ..contract import FoldMode

OFFLINE = {
    "offline": FoldMode(
        "adapters see no prompt and are folded once and for all", {"encode": ".networks.cross_encoder.encode:ENCODE"}
    ),
}


def graphs(config: CrossEncoderConfig) -> Mapping[str, FoldMode]:
    return OFFLINE
