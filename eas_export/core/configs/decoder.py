"""What a decoder is, as data."""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, model_validator

from ..record import Record, Size
from .adapter import AdapterConfig
from .vit import VisionConfig


class ModelConfig(Record):
    """A decoder, most often with a vision tower.

    kv_heads        of keys and values; queries have `heads`, as many times more
    modality_token  the prompt starts with a token that says whether there is an image: it has a table of two of
                    its own, no other token attends to it, its keys and values are not cached, and the
                    router's mean leaves it out (LaVIN)
    kept_adapter, skipped_adapter  before a layer's attention, and where an attention was; None: left out everywhere
    vision          None: the model reads text alone
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
    vision: VisionConfig | None

    @model_validator(mode="after")
    def _fits_together(self) -> "ModelConfig":
        if (self.kept_adapter is None) != (self.skipped_adapter is None):
            raise ValueError("either both kinds of layers have adapters, or none")
        if self.modality_token and self.vision is None:
            raise ValueError("a modality token tells images from text, and there are no images without a tower")
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
        return () if self.vision else ("max_images",)

    @property
    def absent_graphs(self) -> tuple[str, ...]:
        """Graphs of its kind's fold modes that it has no part for."""
        return () if self.vision else ("vision",)

    @property
    def image_tokens(self) -> int:
        """Tokens of one image; 0 where there can be none."""
        return self.vision.tokens if self.vision else 0

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
