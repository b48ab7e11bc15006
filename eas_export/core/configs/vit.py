"""The configs of a vision transformer and of the projector behind it."""

from typing import Literal

from pydantic import Field

from ..record import Record, Size
from .adapter import AdapterConfig


class VitConfig(Record):
    """CLIP's ViT.

    image_size, patch_size  pixels
    width                   channels
    blocks                  blocks that run: those after the last one whose output is read are left out
    """

    image_size: Size
    patch_size: Size
    width: Size
    blocks: int = Field(gt=0, le=1000)
    heads: Size
    ffn_dim: Size
    activation: Literal["quick_gelu", "gelu"] = "quick_gelu"
    norm_eps: float = Field(default=1e-5, gt=0, le=1)

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


class ImageConfig(Record):
    """How an image becomes pixel values: made square, resized (bicubic), scaled to 0..1, (value - mean) / std.

    square  squash: stretch to a square; pad: pad the shorter side with the mean colour; crop: crop the longer side, where an odd
            rest is left one pixel more at its end (transformers), crop-to-even: on the side that leaves an even number at its start
            (torchvision)
    mode    Pillow's, while resizing; transparent pixels of RGBA weigh nothing in it, and their alpha is dropped afterwards
    """

    square: Literal["squash", "pad", "crop", "crop-to-even"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    mode: Literal["RGB", "RGBA"] = "RGB"


class VisionConfig(VitConfig):
    """A ViT and a projector of two linear layers, whose outputs stand among a decoder's tokens.

    features  class: the class token after every `feature_every` blocks; patches: all other tokens after the last block
    adapter   before every attention; None: no adapters
    """

    features: Literal["class", "patches"]
    feature_every: Size
    projector_width: Size
    projector_activation: Literal["silu", "gelu"]
    image: ImageConfig
    adapter: AdapterConfig | None = None

    @property
    def tokens(self) -> int:
        """Feature vectors per image."""
        return self.patches if self.features == "patches" else self.blocks // self.feature_every
