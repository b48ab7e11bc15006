"""What a vision transformer and the projector behind it are, as data."""

from typing import Literal

from pydantic import Field

from ..record import Record, Size
from .adapter import AdapterConfig


class VitConfig(Record):
    """CLIP's ViT.

    image_size, patch_size  pixels
    width                   channels
    blocks                  those that run: what is read behind an earlier one needs no later ones
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
    """How an image becomes pixels: made square, resized (bicubic), scaled to 0..1, (value - mean) / std.

    square  squash: the sides are scaled apart; pad: the shorter side is filled up with the mean colour; crop: the longer side is cut
    """

    square: Literal["squash", "pad", "crop"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class VisionConfig(VitConfig):
    """A ViT and a projector of two linear layers, whose outputs stand among a decoder's tokens.

    features  class: the class token after every `feature_every` blocks; patches: all others behind the last block
    adapter   before every attention; None without
    """

    features: Literal["class", "patches"]
    feature_every: Size
    projector_width: Size
    projector_activation: Literal["silu", "gelu"]
    image: ImageConfig
    adapter: AdapterConfig | None = None

    @property
    def tokens(self) -> int:
        """Feature vectors that one image gives."""
        return self.patches if self.features == "patches" else self.blocks // self.feature_every
