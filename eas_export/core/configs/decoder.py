"""The config of a decoder."""

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, model_validator

from ..plan import Site
from ..record import Record, Size
from .adapter import AdapterConfig, Router
from .rope import Factor, LayerAttention, LongropeScaling, Rope
from .vit import VisionConfig

_OF_TOWERS = ("prompt", "token")


class ModelConfig(Record):
    """A decoder, usually with a vision tower.

    kv_heads        heads of keys and values; `heads` of the queries is a multiple
    head_dim        numbers of a head, by default dim / heads
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
    ropes           the kinds of RoPE that its layers have
    layer_attention  of every layer in order; empty: each attends to all tokens before it and has the first of `ropes`
    activation      of the feed-forward network's gate
    qkv_bias, o_bias, ffn_bias  the projections have biases
    norm_offset     norms multiply by 1 + w: the sum is kept in float32 in every precision (Gemma)
    qk_norm         heads of queries and keys are normalised before RoPE (Qwen3)
    sandwich_norms  the outputs of attention and of feed-forward network are normalised, too, before they are added (Gemma 2)
    attention_scale  of the products of queries and keys; None: 1 / sqrt(head_dim)
    attention_softcap, logit_softcap  c of c tanh(x / c), which bounds the scores of attentions, or the logits; None: they are not bounded
    embedding_scale  multiplies token embeddings
    residual_scale  multiplies what attention and feed-forward network add
    logit_scale     multiplies the logits, before they are bounded
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
    head_dim: Size
    rope_interleaved: bool
    ropes: tuple[Rope, ...] = Field(max_length=16)
    layer_attention: tuple[LayerAttention, ...] = ()
    activation: Literal["silu", "gelu", "gelu_tanh"] = "silu"
    qkv_bias: bool = False
    o_bias: bool = False
    ffn_bias: bool = False
    norm_offset: bool = False
    qk_norm: bool = False
    sandwich_norms: bool = False
    attention_scale: Factor | None = None
    attention_softcap: Factor | None = None
    logit_softcap: Factor | None = None
    embedding_scale: Factor = 1.0
    residual_scale: Factor = 1.0
    logit_scale: Factor = 1.0
    modality_token: bool
    first_position: int = Field(default=0, ge=0, le=1)
    site: Site = "attention"
    kept_adapter: AdapterConfig | None
    skipped_adapter: AdapterConfig | None
    vision: VisionConfig | None
    tied_head: bool = False

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        """Bundles before 0.12.0 have one RoPE, rope_theta, and no head_dim."""
        if not isinstance(values, dict):
            return values
        values = dict(values)
        if "rope_theta" in values and "ropes" not in values:
            values["ropes"] = ({"theta": values.pop("rope_theta")},)
        if values.get("head_dim") is None and all(isinstance(values.get(key), int) for key in ("dim", "heads")):
            values["head_dim"] = values["dim"] // max(1, values["heads"])
        return values

    @model_validator(mode="after")
    def _has_whole_heads(self) -> "ModelConfig":
        if self.heads % self.kv_heads:
            raise ValueError(f"kv_heads {self.kv_heads} does not divide heads {self.heads}")
        if self.layer_attention and len(self.layer_attention) != self.layers:
            raise ValueError(f"layer_attention has {len(self.layer_attention)} entries for {self.layers} layers")
        for layer in range(self.layers):
            attention = self.attention_of(layer)
            if attention.rope is not None and attention.rope >= len(self.ropes):
                raise ValueError(f"layer {layer} has RoPE {attention.rope} of {len(self.ropes)}")
            if attention.window and self.modality_token:
                raise ValueError("attention windows do not go with a modality token")
        if self.sandwich_norms and self.residual_scale != 1:
            raise ValueError("sandwich_norms undo a residual_scale that is folded into what is normalised")
        for rope in self.ropes:
            dims = self.rope_dims(rope)
            if dims % 2 or dims > self.head_dim:
                raise ValueError(
                    f"RoPE turns {dims} of a head's {self.head_dim} numbers: expected an even part of them"
                )
            if isinstance(rope.scaling, LongropeScaling) and {len(rope.scaling.short), len(rope.scaling.long)} != {
                dims // 2
            }:
                raise ValueError(
                    f"LongRoPE has {len(rope.scaling.short)} and {len(rope.scaling.long)} factors for {dims // 2} frequencies"
                )
        return self

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
                "residual_scale": True,
                "logit_scale": True,
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
        angles = (f"{name}.{part}" for name in self.rope_names for part in ("cos", "sin"))
        return ("modality.weight", *angles, *(() if self.tied_head else ("embed.weight",)))

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
    def q_dim(self) -> int:
        """Numbers of all heads of the queries; dim, in most models."""
        return self.heads * self.head_dim

    @property
    def kv_dim(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def rope_names(self) -> tuple[str, ...]:
        """Of the tables of `ropes` in the network."""
        return tuple(f"rope{index or ''}" for index in range(len(self.ropes)))

    def rope_dims(self, rope: Rope) -> int:
        """How many of a head's numbers it turns."""
        return rope.dims or self.head_dim

    def attention_of(self, layer: int) -> LayerAttention:
        return self.layer_attention[layer] if self.layer_attention else LayerAttention()

    @property
    def prefix(self) -> int:
        """Positions that the prefill puts before the prompt's first token."""
        return int(self.modality_token)

    @property
    def prompt_position(self) -> int:
        """The RoPE position of the prompt's first token."""
        return self.first_position + self.prefix
