"""The config of a decoder."""

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, model_validator

from ..plan import Site
from ..record import Record, Size
from .adapter import AdapterConfig, Router
from .vit import VisionConfig

_OF_TOWERS = ("prompt", "token")


class ModelConfig(Record):
    """A decoder, usually with a vision tower.

    kv_heads        heads of keys and values; `heads` of the queries is a multiple
    modality_token  the prompt starts with a token that says whether it has an image: it has an embedding table of its own
                    with two rows, no other token attends to it, its keys and values are not cached, and the
                    mean that a router reads leaves it out (LaVIN)
    first_position  of the first token, the modality token included, in RoPE. A token after the prompt has the position of its cache slot
    site            what a skip leaves out: a layer's attention, or the whole layer
    kept_adapter    before a kept attention; None: none
    skipped_adapter  in place of what is skipped; None: none
    vision          None: the model reads text alone
    tied_head       the head multiplies by the embedding table, which is stored once
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
    first_position: int = Field(default=0, ge=0, le=1)
    site: Site = "attention"
    kept_adapter: AdapterConfig | None
    skipped_adapter: AdapterConfig | None
    vision: VisionConfig | None
    tied_head: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> "ModelConfig":
        routers = {adapter.router for adapter in (self.kept_adapter, self.skipped_adapter) if adapter}
        if (self.skipped_adapter and not self.kept_adapter) or len(routers) > 1:
            raise ValueError("skipped_adapter needs a kept_adapter with the same router")
        if "token" in routers or (self.vision and self.vision.adapter and self.vision.adapter.router not in _OF_TOWERS):
            raise ValueError(f"a tower's adapters have one of the routers {', '.join(_OF_TOWERS)}, a decoder's another")
        if (self.modality_token or routers & {"constant", "folded"}) and self.vision is None:
            raise ValueError("modality_token, and routers that depend on it, need a vision tower")
        if "modality" in routers and not self.modality_token:
            raise ValueError("routers that read the modality token need modality_token")
        if self.site == "layer" and not self.skipped_adapter:
            raise ValueError("layers that are skipped as a whole need a skipped_adapter")
        if self.skipped_adapter and (self.site == "layer") == ("prompt" in routers):
            raise ValueError(
                "skipped attentions have adapters with a router that reads the prompt, skipped layers have not"
            )
        return self

    def structure(self) -> dict:
        """The fields that graphs depend on: without numbers that are folded into the weights, and without image preprocessing."""
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
    def router(self) -> Router | None:
        """What the decoder's router weights depend on; None without adapters."""
        return self.kept_adapter.router if self.kept_adapter else None

    @property
    def unused_limits(self) -> tuple[str, ...]:
        """Fields of Limits that do not apply to it."""
        return () if self.vision else ("max_images",)

    @property
    def absent_graphs(self) -> tuple[str, ...]:
        """Graphs of its kind's fold modes that it does not have."""
        folded = ("fold",) if self.router in ("modality", "folded") else ()  # at build time
        return folded if self.vision else ("vision", *folded)

    @property
    def tables(self) -> tuple[str, ...]:
        """Parameters of which a run reads a row per token, and no more."""
        return ("modality.weight", "rope.cos", "rope.sin", *(() if self.tied_head else ("embed.weight",)))

    @property
    def image_tokens(self) -> int:
        """Tokens per image; 0 without a vision tower."""
        return self.vision.tokens if self.vision else 0

    @property
    def sites(self) -> int:
        """Number of attentions, or layers, that can be skipped."""
        return self.layers

    def attentions(self, sites: Iterable[int]) -> frozenset:
        """The distinct attentions, or layers, that these indices stand for."""
        return frozenset(sites)

    def notes(self, skipped: Iterable[int]) -> tuple[str, ...]:
        """What a user should know about how these sites were read: nothing, as a site is a layer."""
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

    @property
    def prompt_position(self) -> int:
        """The RoPE position of the prompt's first token."""
        return self.first_position + self.prefix
