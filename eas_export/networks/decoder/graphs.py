"""A decoder's fold modes and their graphs."""

from ..contract import FoldMode

_PROMPT = {"vision": ".networks.decoder.vision:VISION", "prefill": ".networks.decoder.prefill:PREFILL"}

FOLD_MODES = {
    "weights": FoldMode(
        "one prompt at a time, its adapters folded into the weights (as in the paper)",
        _PROMPT | {"fold": ".networks.decoder.fold:FOLD", "decode": ".networks.decoder.decode:FOLDED_DECODE"},
        one_prompt=True,
    ),
    "lowrank": FoldMode(
        "any batch, unfolded adapters beside shared weights, frozen at each prompt's state",
        _PROMPT | {"decode": ".networks.decoder.decode:UNFOLDED_DECODE"},
    ),
    "none": FoldMode(
        "for models without adapters",
        _PROMPT | {"decode": ".networks.decoder.decode:PLAIN_DECODE"},
        adapters=False,
    ),
}
