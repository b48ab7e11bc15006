"""What a model is and how large its inputs may be, as data. No torch here."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator


class Record(BaseModel):
    """A frozen record that refuses unknown keys: the base of everything that is written to or read from JSON or YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Size = Annotated[int, Field(gt=0, le=1 << 24)]  # no dimension of a model is larger


class AdapterConfig(Record):
    """One kind of PIA adapter.

    rank         h, the adapter's inner width
    scale        s
    temperature  t of the router's softmax (paper, Eq. 6)
    """

    rank: Size
    scale: float = Field(allow_inf_nan=False)
    temperature: float = Field(gt=0, allow_inf_nan=False)


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


class ModelConfig(Record):
    """A decoder with a vision tower.

    kv_heads        of keys and values; queries have `heads`, as many times more
    modality_token  the prompt starts with a token that says whether there is an image: it has a table of two of
                    its own, no other token attends to it, its keys and values are not cached, and the
                    router's mean leaves it out (LaVIN)
    kept_adapter, skipped_adapter  before a layer's attention, and where an attention was; None: left out everywhere
    rope_interleaved  RoPE turns the pairs (0, 1), (2, 3), ... (True) or (i, i + head_dim/2) (False)
    """

    kind: Literal["decoder"] = "decoder"
    family: str
    vocab_size: Size
    dim: Size
    layers: int = Field(gt=0, le=1000)
    heads: Size
    kv_heads: Size
    ffn_dim: Size
    norm_eps: float = Field(gt=0, le=1)
    rope_theta: float = Field(ge=1, le=1e12)
    rope_interleaved: bool
    modality_token: bool
    kept_adapter: AdapterConfig | None
    skipped_adapter: AdapterConfig | None
    vision: VisionConfig

    @model_validator(mode="after")
    def _adapters_go_together(self) -> "ModelConfig":
        if (self.kept_adapter is None) != (self.skipped_adapter is None):
            raise ValueError("either both kinds of layers have adapters, or none")
        return self

    def structure(self) -> dict:
        """What graphs depend on: without the numbers that are folded into the weights, and without pixels."""
        in_weights = {"scale": True, "temperature": True}
        return self.model_dump(
            exclude={
                "kept_adapter": in_weights,
                "skipped_adapter": in_weights,
                "vision": {"adapter": in_weights, "image": True},
            }
        )

    @property
    def has_adapters(self) -> bool:
        return self.kept_adapter is not None

    @property
    def unused_limits(self) -> tuple[str, ...]:
        """Fields of Limits that mean nothing to it."""
        return ()

    @property
    def sites(self) -> int:
        """Attentions that can be skipped."""
        return self.layers

    def attentions(self, sites: Iterable[int]) -> frozenset:
        """The distinct attentions that these indices stand for."""
        return frozenset(sites)

    def notes(self, skipped: Iterable[int]) -> tuple[str, ...]:
        """What a user should know of how these sites are read: they are what they say."""
        return ()

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def kv_dim(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def prefix(self) -> int:
        """Positions that the prefill puts before the prompt's first token."""
        return int(self.modality_token)


class Limits(Record):
    """The largest inputs a bundle takes.

    max_batch   rows
    max_images  images of one prompt
    max_prompt  tokens of one prompt
    max_tokens  tokens of one prompt and its answer together: the cache's slots, and the length of RoPE's tables
    """

    max_batch: PositiveInt = 1
    max_images: PositiveInt = 1
    max_prompt: PositiveInt = 1024
    max_tokens: PositiveInt = Field(default=2048, le=1 << 17)

    @model_validator(mode="after")
    def _prompt_fits(self):
        if self.max_prompt >= self.max_tokens:
            raise ValueError(
                f"max_prompt {self.max_prompt} leaves no room for an answer in max_tokens {self.max_tokens}"
            )
        return self
