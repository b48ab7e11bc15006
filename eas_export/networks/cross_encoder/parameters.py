"""A cross-encoder's adapters, folded offline: they see no prompt, so what stands before a linear layer is in its weights.

    F(x) = x + B(C x + c) + b,   W F(x) + w = (W + (W B) C) x + (W (B c + b) + w)

The adapters of skipped attentions do not fold (a norm stands behind them); their 0.5 goes into the matrices it multiplies.
Everything is computed in float32.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.lazy_tensor import LazyTensor, combine
from ...core.configs.cross_encoder import CrossEncoderConfig
from ...core.limits import Limits
from ...core.plan import SkipPlan

Tensors = dict[str, LazyTensor]

# Part of a layer that an adapter stands before -> the linear layers of it that read the adapter's output
READERS = {"attention": ("q", "k", "v"), "cross_attention": ("q",), "ffn": ("fc1",)}


def fold_weight(weight: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
    """W + (W B) C: [out, dim], B [dim, rank], C [rank, dim] -> [out, dim] float32"""
    wide = weight.float()
    return wide + (wide @ outer.float()) @ inner.float()


def fold_bias(bias: Tensor, weight: Tensor, outer: Tensor, outer_bias: Tensor, inner_bias: Tensor) -> Tensor:
    """w + W (B c + b): [out], W [out, dim], B [dim, rank], b [dim], c [rank] -> [out] float32"""
    return bias.float() + weight.float() @ (outer.float() @ inner_bias.float() + outer_bias.float())


def useless(config: CrossEncoderConfig, plan: SkipPlan) -> list[str]:
    """How the names begin of what the plan makes useless: a skipped attention with the adapter before it, and the replacement of
    a kept one."""
    skipped, gone = config.attentions(plan.skipped), []
    for attention in config.every_attention():
        place = f"{attention.stream}_layers.{attention.layer}"
        if attention in skipped:
            gone += [f"{place}.{attention.part}.", f"{place}.{attention.part}_adapter."]
        else:
            gone.append(f"{place}.skipped_{attention.part}_adapter.")
    return gone


def folded_parameters(checkpoint: Checkpoint, plan: SkipPlan, limits: Limits) -> Tensors:
    """The exported network's parameters (networks/cross_encoder/modules.py, folded) of a pruned checkpoint. Nothing is read."""
    return _parameters(checkpoint, _fold)


def unfolded_parameters(checkpoint: Checkpoint, plan: SkipPlan) -> Tensors:
    """The same for the network as it was trained, whose adapters stand where they were, in float32."""
    return {
        name: tensor.map(Tensor.float, dtype=torch.float32) for name, tensor in _parameters(checkpoint, _keep).items()
    }


def _parameters(checkpoint: Checkpoint, join: Callable[[Tensors, Tensors, tuple[str, ...]], Tensors]) -> Tensors:
    source, config = checkpoint.tensors, checkpoint.config
    result = {name: t for name, t in source.items() if not name.startswith(("text_layers.", "image_layers."))}
    for place in (f"{stream}_layers.{i}" for stream in ("text", "image") for i in range(config.layers)):
        here = _below(source, place)
        made = {name: tensor for name, tensor in here.items() if "_norm." in name}
        for part, readers in READERS.items():
            if replacement := _below(here, f"skipped_{part}_adapter"):
                new = _replacement(replacement)
            else:
                new = join(_below(here, part), _below(here, f"{part}_adapter"), readers)
            made |= {f"{part}.{name}": tensor for name, tensor in new.items()}
        result |= {f"{place}.{name}": tensor for name, tensor in made.items()}
    return result


def _below(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def _fold(part: Tensors, adapter: Tensors, readers: tuple[str, ...]) -> Tensors:
    """A part's linear layers with the adapter before it in those that read it."""
    made = dict(part)
    for reader in readers:
        weight, bias = part[f"{reader}.weight"], part[f"{reader}.bias"]
        made[f"{reader}.weight"] = combine([weight, adapter["B"], adapter["C"]], fold_weight, dtype=torch.float32)
        folded = [bias, weight, adapter["B"], adapter["b"], adapter["c"]]
        made[f"{reader}.bias"] = combine(folded, fold_bias, dtype=torch.float32)
    return made


def _keep(part: Tensors, adapter: Tensors, readers: tuple[str, ...]) -> Tensors:
    names = {"down.weight": "C", "down.bias": "c", "up.weight": "B", "up.bias": "b"}
    beside = {f"adapter.{ours}": adapter[letter] for ours, letter in names.items()}
    return {f"part.{name}": tensor for name, tensor in part.items()} | beside


def _replacement(letters: Tensors) -> Tensors:
    """down, pool and up of the adapter in place of a skipped attention."""
    return {
        "down.weight": letters["C"].map(lambda matrix: 0.5 * matrix.float(), dtype=torch.float32),
        "pool.weight": letters["A"].map(lambda matrix: 0.5 * matrix.float(), dtype=torch.float32),
        "pool.bias": combine(
            [letters["a"], letters["c"]], lambda a, c: 0.5 * (a.float() + c.float()), dtype=torch.float32
        ),
        "up.weight": letters["B"],
        "up.bias": letters["b"],
    }
