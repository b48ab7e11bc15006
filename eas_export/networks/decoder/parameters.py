"""A decoder's parameters from a pruned checkpoint, with everything folded in that does not depend on the prompt.

Scale, temperature and the 0.5 of the skipped adapter go into the matrices they multiply; a skipped layer's ffn_norm weight
goes into gate and up (W diag(g)). Every conversion is computed in float32 and rounded once, to the parameter's dtype.
"""

import torch

from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.lazy_tensor import LazyTensor, combine
from ...core.configs.adapter import AdapterConfig
from ...core.configs.decoder import ModelConfig
from ...core.limits import Limits
from ...core.plan import SkipPlan
from ..fold import stack_inner, stack_inner_bias, stack_outer

Tensors = dict[str, LazyTensor]


def parameters(checkpoint: Checkpoint, plan: SkipPlan, limits: Limits) -> Tensors:
    """Every parameter of a decoder and its tower, by its name in the network, in the checkpoint's dtype or float32. Nothing is read.

    checkpoint  after `prune` with the same plan
    """
    config, source = checkpoint.config, checkpoint.tensors
    result = {name: t for name, t in source.items() if not name.startswith(("layers.", "vision."))}
    for i in range(config.layers):
        tensors = {n.removeprefix(f"layers.{i}."): t for n, t in source.items() if n.startswith(f"layers.{i}.")}
        block = _skipped(tensors, config) if i in plan.skipped else _kept(tensors, config)
        result |= {f"layers.{i}.{name}": tensor for name, tensor in block.items()}
    result |= _vision({n.removeprefix("vision."): t for n, t in source.items() if n.startswith("vision.")}, config)
    if plan.kept:
        result |= rotary_tables(config, limits)
    return result


def _kept(tensors: Tensors, config: ModelConfig) -> Tensors:
    plain = {name: t for name, t in tensors.items() if not name.startswith("kept_adapter.")}
    if config.kept_adapter is None:
        return plain
    return plain | _adapter(tensors, "kept_adapter.", config.kept_adapter, inner=("A", "a"), half=1.0)


def _skipped(tensors: Tensors, config: ModelConfig) -> Tensors:
    gain = tensors["ffn_norm.weight"]
    premultiplied = {
        f"ffn.{part}.weight": combine(
            [tensors[f"ffn.{part}.weight"], gain], lambda w, g: w.float() * g.float(), dtype=torch.float32
        )
        for part in ("gate", "up")
    }
    rest = {name: tensors[name] for name in ("norm.weight", "ffn.down.weight")}
    if config.skipped_adapter is None:
        return rest | premultiplied
    pool = {"pool.weight": tensors["skipped_adapter.A"], "pool.bias": tensors["skipped_adapter.a"]}
    return (
        rest
        | premultiplied
        | pool
        | _adapter(tensors, "skipped_adapter.", config.skipped_adapter, inner=("C", "c"), half=0.5)
    )


def _vision(source: Tensors, config: ModelConfig) -> Tensors:
    plain = {name: t for name, t in source.items() if ".adapter." not in name}
    for i in range(config.vision.blocks if config.vision and config.vision.adapter else 0):
        tensors = {n.removeprefix(f"blocks.{i}."): t for n, t in source.items() if n.startswith(f"blocks.{i}.")}
        adapter = _adapter(tensors, "adapter.", config.vision.adapter, inner=("A", "a"), half=1.0)
        plain |= {f"blocks.{i}.{name}": tensor for name, tensor in adapter.items()}
    return {f"vision.{name}": tensor for name, tensor in plain.items()}


def _adapter(tensors: Tensors, prefix: str, config: AdapterConfig, inner: tuple[str, str], half: float) -> Tensors:
    """The stacked form of one adapter (see networks/fold.py) and its router, with the temperature in its weights."""
    part = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    outer, wide = [part[letter] for letter in "BbDd"], torch.float32
    dim, width = outer[0].shape[0], 2 * (config.rank + 1)
    return {
        "adapter.down.weight": part[inner[0]].map(lambda m: stack_inner(half * m.float()), (width, dim), wide),
        "adapter.down.bias": part[inner[1]].map(lambda m: stack_inner_bias(half * m.float()), (width,), wide),
        "adapter.up": combine(
            outer, lambda *parts: stack_outer(*(t.float() for t in parts), config.scale), (dim, width), wide
        ),
        "router.weight": part["E"].map(lambda e: e.float() / config.temperature, dtype=wide),
        "router.bias": part["e"].map(lambda e: e.float() / config.temperature, dtype=wide),
    }


def rotary_tables(config: ModelConfig, limits: Limits) -> Tensors:
    """cos and sin of RoPE's angles, [max_tokens + prefix, head_dim / 2] float32: with a prefix, a prompt's last position is max_tokens.

    Angles are products in float32, as published. Powers and cosines are rounded from float64: in float32 their last bit depends on
    the library, and a frequency's last bit rotates a key at position 1000 by 3e-5.
    """
    shape = (limits.max_tokens + config.prefix, config.head_dim // 2)

    def table(function) -> LazyTensor:
        def read() -> torch.Tensor:
            exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
            frequencies = 1.0 / (config.rope_theta ** exponents.double()).float()
            angles = torch.outer(torch.arange(shape[0], dtype=torch.float32), frequencies)
            return function(angles.double()).float()

        return LazyTensor(shape, torch.float32, "computed from the config", read)

    return {"rope.cos": table(torch.cos), "rope.sin": table(torch.sin)}


def useless(config: ModelConfig, plan: SkipPlan) -> list[str]:
    """Name prefixes of q, k, v, o and the kept-layer adapter of skipped layers, and of the skipped-layer adapter of kept ones."""
    if not config.has_adapters:
        return [f"layers.{i}.attention." for i in plan.skipped]
    gone = [f"layers.{i}.{part}." for i in plan.skipped for part in ("attention", "kept_adapter")]
    return gone + [f"layers.{i}.skipped_adapter." for i in plan.kept]


def without_adapters(config: ModelConfig) -> tuple[ModelConfig, tuple[str, ...]]:
    """The config without adapters, and parts of their tensors' names."""
    vision = config.vision and config.vision.model_copy(update={"adapter": None})
    bare = config.model_copy(update={"kept_adapter": None, "skipped_adapter": None, "vision": vision})
    return bare, (".kept_adapter.", ".skipped_adapter.", ".adapter.")
