"""RoPE as config.json has it: one table of keys in rope_parameters or, before transformers 5, in rope_scaling, with rope_theta beside it."""

import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ConfigDict, Field, ValidationError, model_validator

from ..core.configs.rope import LinearScaling, Llama3Scaling, LongropeScaling, Rope, Scaling, YarnScaling
from .architectures import FULL, SLIDING, Architecture
from .hugging_face import HfRecord
from .json_file import reason

OF_TRAINING = ("finetuned",)  # keys that change nothing


class RopeKeys(HfRecord):
    """The keys of a RoPE table, whole: with those that stand beside it in config.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rope_type: str
    rope_theta: float = Field(ge=1, le=1e12)
    partial_rotary_factor: float = Field(default=1.0, gt=0, le=1)
    factor: float | None = Field(default=None, gt=0)
    low_freq_factor: float | None = Field(default=None, gt=0)
    high_freq_factor: float | None = Field(default=None, gt=0)
    original_max_position_embeddings: int = Field(gt=0)
    max_position_embeddings: int = Field(gt=0)
    attention_factor: float | None = Field(default=None, gt=0)
    beta_fast: float | None = Field(default=None, ge=0)
    beta_slow: float | None = Field(default=None, ge=0)
    mscale: float | None = Field(default=None, ge=0)
    mscale_all_dim: float | None = Field(default=None, ge=0)
    truncate: bool = True
    short_factor: tuple[float, ...] | None = None
    long_factor: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> "RopeKeys":
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

    def scale(weight: float = 1.0) -> float:
        return 0.1 * weight * math.log(keys.factor) + 1.0 if keys.factor > 1 else 1.0

    by_weights = scale(keys.mscale) / scale(keys.mscale_all_dim) if keys.mscale and keys.mscale_all_dim else None
    return YarnScaling(
        factor=keys.factor,
        beta_fast=keys.beta_fast or 32.0,
        beta_slow=keys.beta_slow or 1.0,
        original_positions=keys.original_max_position_embeddings,
        attention_factor=keys.attention_factor or by_weights or scale(),
        truncate=keys.truncate,
    )


def _longrope(keys: RopeKeys) -> Scaling:
    original = keys.original_max_position_embeddings
    factor = keys.factor or keys.max_position_embeddings / original
    by_length = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return LongropeScaling(
        short=keys.short_factor,
        long=keys.long_factor,
        original_positions=original,
        attention_factor=keys.attention_factor or by_length,
    )


# rope_type -> the keys that it needs, and (keys) -> its scaling
SCALINGS: dict[str, tuple[tuple[str, ...], Callable[[RopeKeys], Scaling | None]]] = {
    "default": ((), lambda keys: None),
    "linear": (("factor",), _linear),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor"), _llama3),
    "yarn": (("factor",), _yarn),
    "longrope": (("short_factor", "long_factor"), _longrope),
}


def read_ropes(values: Mapping[str, Any], row: Architecture) -> dict[str, RopeKeys]:
    """Layer type -> the keys of its RoPE; one entry where all layers have the same. As transformers reads them: rope_scaling, else rope_parameters
    (version 5 writes both). Where layers with a window have a RoPE of their own, rope_parameters has a table for each layer type, and
    rope_scaling is for the others. Raises ValueError for what is not supported."""
    scaling, parameters = (_table(values, key) for key in ("rope_scaling", "rope_parameters"))
    theta = values.get("rope_theta", row.theta)
    if row.local_theta is None:
        return {FULL: _whole(scaling or parameters, theta, values, row)}
    local_theta = values.get("rope_local_base_freq", row.local_theta)
    return {
        FULL: _whole(_table(parameters, FULL) | scaling, theta, values, row),
        SLIDING: _whole(_table(parameters, SLIDING), local_theta, values, row),
    }


def _table(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    table = values.get(key) or {}
    if not isinstance(table, dict):
        raise ValueError(f"{key} is {reprlib.repr(table)}: expected a table of RoPE's keys")
    return table


def _whole(table: Mapping[str, Any], theta: Any, values: Mapping[str, Any], row: Architecture) -> RopeKeys:
    """A table with what stands around it. A theta in it wins over the one beside it; of the original length it is the other way round. The type
    is rope_type, else the older `type`."""
    given, positions = table.get("rope_type", table.get("type", "default")), values["max_position_embeddings"]
    kind = row.rope_types.get(given) if isinstance(given, str) else None
    if kind is None:
        known = ", ".join(row.rope_types)
        raise ValueError(f"RoPE is scaled by {reprlib.repr(given)} ({reprlib.repr(table)}): only {known} are supported")
    original = values.get("original_max_position_embeddings") or table.get("original_max_position_embeddings")
    whole = {"rope_theta": theta, "partial_rotary_factor": values.get("partial_rotary_factor"), **table}
    whole |= {"rope_type": kind, "max_position_embeddings": positions}
    whole |= {"original_max_position_embeddings": original or positions}
    if whole["partial_rotary_factor"] is None or (kind == "default" and "partial_rotary_factor" not in row.reads):
        whole["partial_rotary_factor"] = 1.0  # ignored by a class that turns whole heads
    if "partial_rotary_factor" not in row.reads and (part := whole["partial_rotary_factor"]) != 1:
        raise ValueError(f"partial_rotary_factor is {part}: only 1 is supported where RoPE is scaled by {given}")
    try:
        return RopeKeys(**{key: value for key, value in whole.items() if key not in ("type", *OF_TRAINING)})
    except ValidationError as error:
        raise ValueError(reason(error)) from None
