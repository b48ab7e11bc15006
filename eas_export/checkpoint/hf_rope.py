"""RoPE as config.json has it: one table of keys in rope_parameters or, before transformers 5, in rope_scaling, with rope_theta beside it."""

import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ConfigDict, Field, model_validator

from ..core.configs.rope import LinearScaling, Llama3Scaling, LongropeScaling, Rope, Scaling, YarnScaling
from .hugging_face import HfRecord

OF_TRAINING = ("finetuned",)  # keys that change nothing


class RopeKeys(HfRecord):
    """The keys of a RoPE table; its defaults are those of transformers. max_position_embeddings, and original_max_position_embeddings where the table
    has none, are the model's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rope_type: str = "default"
    rope_theta: float = Field(ge=1, le=1e12)
    partial_rotary_factor: float = Field(default=1.0, gt=0, le=1)
    factor: float | None = Field(default=None, gt=0)
    low_freq_factor: float | None = Field(default=None, gt=0)
    high_freq_factor: float | None = Field(default=None, gt=0)
    original_max_position_embeddings: int = Field(gt=0)
    max_position_embeddings: int = Field(gt=0)
    attention_factor: float | None = Field(default=None, gt=0)
    beta_fast: float | None = Field(default=None, gt=0)
    beta_slow: float | None = Field(default=None, gt=0)
    mscale: float | None = Field(default=None, gt=0)
    mscale_all_dim: float | None = Field(default=None, gt=0)
    truncate: bool = True
    short_factor: tuple[float, ...] | None = None
    long_factor: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _is_supported(self) -> "RopeKeys":
        if self.rope_type not in SCALINGS:
            raise ValueError(
                f"RoPE is scaled by {reprlib.repr(self.rope_type)}: only {', '.join(SCALINGS)} are supported"
            )
        for key in SCALINGS[self.rope_type][0]:
            if getattr(self, key) is None:
                raise ValueError(f"RoPE that is scaled by {self.rope_type} needs {key}, which is missing")
        return self

    def rope(self, head_dim: int) -> Rope:
        dims = int(head_dim * self.partial_rotary_factor)
        scaling = SCALINGS[self.rope_type][1](self)
        return Rope(theta=self.rope_theta, dims=None if dims == head_dim else dims, scaling=scaling)


def _linear(keys: RopeKeys) -> Scaling | None:
    return None if keys.factor == 1 else LinearScaling(factor=keys.factor)


def _llama3(keys: RopeKeys) -> Scaling:
    return Llama3Scaling(
        factor=keys.factor,
        low_factor=keys.low_freq_factor,
        high_factor=keys.high_freq_factor,
        original_positions=keys.original_max_position_embeddings,
    )


def _yarn(keys: RopeKeys) -> Scaling:
    """The factor of cosines and sines is YaRN's 0.1 ln(factor) + 1, unless the table has it, or two weights of the logarithm (DeepSeek)."""
    factor = keys.factor or keys.max_position_embeddings / keys.original_max_position_embeddings

    def scale(weight: float = 1.0) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    by_weights = scale(keys.mscale) / scale(keys.mscale_all_dim) if keys.mscale and keys.mscale_all_dim else None
    return YarnScaling(
        factor=factor,
        beta_fast=keys.beta_fast or 32.0,
        beta_slow=keys.beta_slow or 1.0,
        original_positions=keys.original_max_position_embeddings,
        attention_factor=keys.attention_factor or by_weights or scale(),
        truncate=keys.truncate,
    )


def _longrope(keys: RopeKeys) -> Scaling:
    original = keys.original_max_position_embeddings
    factor = keys.factor or keys.max_position_embeddings / original
    attention_factor = keys.attention_factor or (
        math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    )
    return LongropeScaling(
        short=keys.short_factor, long=keys.long_factor, original_positions=original, attention_factor=attention_factor
    )


# rope_type -> the keys that it needs, and (keys) -> its scaling
SCALINGS: dict[str, tuple[tuple[str, ...], Callable[[RopeKeys], Scaling | None]]] = {
    "default": ((), lambda keys: None),
    "linear": (("factor",), _linear),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor"), _llama3),
    "yarn": ((), _yarn),
    "longrope": (("short_factor", "long_factor"), _longrope),
}


def rope_table(values: Mapping[str, Any], theta: float, partial: bool) -> dict[str, Any]:
    """The keys of the model's one RoPE, or those of each layer type where the table has tables inside. As transformers reads them: rope_scaling, else
    rope_parameters (version 5 writes both); the type is rope_type, else the older `type`; a theta in the table wins over rope_theta.

    values   of config.json
    theta    where the file has none
    partial  whether the model turns a part of each head only (partial_rotary_factor)
    """
    table = values.get("rope_scaling") or values.get("rope_parameters") or {}
    table = table if isinstance(table, dict) else {"rope_type": table}
    around = {"rope_theta": values.get("rope_theta") or theta}
    around |= (
        {"partial_rotary_factor": values["partial_rotary_factor"]}
        if partial and "partial_rotary_factor" in values
        else {}
    )
    positions = values.get("max_position_embeddings")
    original = values.get("original_max_position_embeddings")
    sizes = {"max_position_embeddings": positions}
    if table and all(isinstance(inside, dict | None) for inside in table.values()):
        return {kind: whole(inside or {}, around, sizes, original) for kind, inside in table.items()}
    return whole(table, around, sizes, original)


def whole(
    table: Mapping[str, Any], around: Mapping[str, Any], sizes: Mapping[str, Any], original: int | None
) -> dict[str, Any]:
    """A table with what stands around it: a model's original_max_position_embeddings wins over the table's (Phi-3)."""
    named = {"rope_type": table["type"]} if "type" in table else {}
    own = {key: value for key, value in table.items() if key not in ("type", *OF_TRAINING)}
    merged = {**around, **named, **own, **sizes}
    first = original or merged.get("original_max_position_embeddings") or sizes["max_position_embeddings"]
    return merged | {"original_max_position_embeddings": first}
