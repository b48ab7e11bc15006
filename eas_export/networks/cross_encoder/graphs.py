"""A cross-encoder's fold mode and its graph."""

from ..contract import FoldMode

FOLD_MODES = {
    "offline": FoldMode(
        "adapters do not depend on the prompt and are folded at build time (METER)",
        {"encode": ".networks.cross_encoder.encode:ENCODE"},
    ),
}
