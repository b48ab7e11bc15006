"""A decoder's fold modes and their graphs."""

from ..contract import FoldMode

_PROMPT = {"vision": ".networks.decoder.vision:VISION", "prefill": ".networks.decoder.prefill:PREFILL"}

FOLD_MODES = {
    "weights": FoldMode(
        "adapters folded into the weights: of one prompt at a time (EAS), or of one modality at a time (LaVIN, DAS)",
        _PROMPT | {"fold": ".networks.decoder.fold:FOLD", "decode": ".networks.decoder.decode:FOLDED_DECODE"},
        routers=("prompt", "modality", "folded"),
        settles="folded",
    ),
    "lowrank": FoldMode(
        "any batch, unfolded adapters beside shared weights, frozen at each prompt's state",
        _PROMPT | {"decode": ".networks.decoder.decode:UNFOLDED_DECODE"},
        routers=("prompt", "modality", "constant"),
    ),
    "none": FoldMode(
        "for models without adapters",
        _PROMPT | {"decode": ".networks.decoder.decode:PLAIN_DECODE"},
        routers=(None,),
    ),
}
