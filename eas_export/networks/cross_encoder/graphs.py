"""A cross-encoder's fold mode: one pass, whose adapters see no prompt."""

from ..contract import FoldMode

FOLD_MODES = {
    "offline": FoldMode(
        "adapters see no prompt and are folded once and for all (METER)",
        {"encode": ".networks.cross_encoder.encode:ENCODE"},
    ),
}
