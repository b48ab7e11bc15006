"""The config of a PIA adapter."""

from typing import Literal

from pydantic import Field

from ..record import Record, Size

# What an adapter's two router weights depend on
# prompt    the mean over the prompt's tokens, or an image's patches
# modality  the modality token, which sees itself alone: one pair of weights with an image, one without
# constant  the same, as a table that was computed at build time
# folded    the same, and the adapter is folded into the linear layers after it, one set of weights with an image and one without
# token     each token on its own
Router = Literal["prompt", "modality", "constant", "folded", "token"]


class AdapterConfig(Record):
    """One kind of PIA adapter.

    rank         h, the adapter's inner width
    scale        s
    temperature  t of the router's softmax (paper, Eq. 6)
    router       what its weights depend on
    """

    rank: Size
    scale: float = Field(allow_inf_nan=False)
    temperature: float = Field(gt=0, allow_inf_nan=False)
    router: Router = "prompt"
