"""The tables of RoPE: cosines and sines of every position's angles, with scaled frequencies where the model has them.

Angles are products in float32, as published. Powers and cosines are rounded from float64: in float32 their last bit depends on the
library, and a frequency's last bit rotates a key at position 1000 by 3e-5.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ...checkpoint.lazy_tensor import OF_CONFIG, LazyTensor
from ...core.configs.decoder import ModelConfig
from ...core.configs.rope import Llama3Scaling, LongropeScaling, Rope, YarnScaling
from ...core.limits import Limits


def rotary_tables(config: ModelConfig, limits: Limits) -> dict[str, LazyTensor]:
    """cos and sin of each RoPE's angles, [max_tokens + prefix, dims / 2] float32: with a prefix, a prompt's last position is max_tokens."""
    positions = limits.max_tokens + config.prompt_position
    tables = {}
    for name, rope in zip(config.rope_names, config.ropes):
        dims = config.rope_dims(rope)
        for part, function in (("cos", torch.cos), ("sin", torch.sin)):
            read = partial(_table, rope, dims, positions, function)
            tables[f"{name}.{part}"] = LazyTensor((positions, dims // 2), torch.float32, OF_CONFIG, read)
    return tables


def _table(rope: Rope, dims: int, positions: int, function: Callable[[Tensor], Tensor]) -> Tensor:
    frequencies, factor = scaled_frequencies(rope, dims, positions)
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), frequencies)
    return (factor * function(angles.double())).float()


def scaled_frequencies(rope: Rope, dims: int, positions: int) -> tuple[Tensor, float]:
    """The angles of one position [dims / 2] float32, and the factor of cosines and sines. positions: as many as a prompt and its answer may have"""
    exponents = torch.arange(0, dims, 2, dtype=torch.float32) / dims
    powers = (rope.theta ** exponents.double()).float()
    if rope.scaling is None:
        return 1.0 / powers, 1.0
    return SCALINGS[rope.scaling.kind](rope, powers, positions)


def _linear(rope: Rope, powers: Tensor, positions: int) -> tuple[Tensor, float]:
    return 1.0 / powers / rope.scaling.factor, 1.0


def _llama3(rope: Rope, powers: Tensor, positions: int) -> tuple[Tensor, float]:
    """Between both bounds, a frequency is a mean of itself, weighted by `share`, and of itself divided by the factor."""
    scaling: Llama3Scaling = rope.scaling
    plain = 1.0 / powers
    turns = scaling.original_positions / (2 * math.pi / plain)  # in as many positions as pretraining had
    share = (turns - scaling.low_factor) / (scaling.high_factor - scaling.low_factor)
    share = share.clamp(0, 1)
    return (1 - share) * plain / scaling.factor + share * plain, 1.0


def _yarn(rope: Rope, powers: Tensor, positions: int) -> tuple[Tensor, float]:
    """From dimension `low` to `high`, a frequency goes over from itself to itself divided by the factor."""
    scaling: YarnScaling = rope.scaling
    dims = 2 * len(powers)

    def dimension(turns: float) -> float:
        """That turns so often in as many positions as pretraining had."""
        return dims * math.log(scaling.original_positions / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    low, high = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dims - 1)
    span = (high - low) or 0.001
    scaled = ((torch.arange(len(powers), dtype=torch.float32) - low) / span).clamp(0, 1)
    return scaled / (scaling.factor * powers) + (1 - scaled) / powers, scaling.attention_factor


def _longrope(rope: Rope, powers: Tensor, positions: int) -> tuple[Tensor, float]:
    scaling: LongropeScaling = rope.scaling
    factors = scaling.long if positions > scaling.original_positions else scaling.short
    return 1.0 / (torch.tensor(factors, dtype=torch.float32) * powers), scaling.attention_factor


SCALINGS = {  # by the kind of core/configs/rope.Scaling: (rope, theta^(2j / dims), positions) -> as scaled_frequencies
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
