"""A cross-encoder's parameters. Its adapters do not depend on a prompt, so those before linear layers are folded offline:

    F(x) = x + B(C x + c) + b,   W F(x) + w = (W + (W B) C) x + (W (B c + b) + w)

The adapters of skipped attentions do not fold (a norm follows them); their 0.5 goes into the matrices that it multiplies.
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

# Part of a layer with an adapter before it -> the part's linear layers that read the adapter's output
READERS = {"attention": ("q", "k", "v"), "cross_attention": ("q",), "ffn": ("fc1",)}


def fold_weight(weight: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
    """W + (W B) C: [out, dim], B [dim, rank], C [rank, dim] -> [out, dim] float32"""
    wide = weight.float()
    return wide + (wide @ outer.float()) @ inner.float()


def fold_bias(bias: Tensor, weight: Tensor, outer: Tensor, outer_bias: Tensor, inner_bias: Tensor) -> Tensor:
    """w + W (B c + b): [out], W [out, dim], B [dim, rank], b [dim], c [rank] -> [out] float32"""
    return bias.float() + weight.float() @ (outer.float() @ inner_bias.float() + outer_bias.float())


def useless(config: CrossEncoderConfig, plan: SkipPlan) -> list[str]:
    """Name prefixes of the tensors that the plan makes useless: a skipped attention with the adapter before it, and the replacement of
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
    """The parameters of folded_cross_encoder (networks/cross_encoder/modules.py) from a pruned checkpoint. Nothing is read."""
    return _parameters(checkpoint, _fold)


def unfolded_parameters(checkpoint: Checkpoint, plan: SkipPlan) -> Tensors:
    """The parameters of unfolded_cross_encoder, the network as it was trained, in float32."""
    return {
        name: tensor.map(Tensor.float, dtype=torch.float32) for name, tensor in _parameters(checkpoint, _keep).items()
    }


def _parameters(checkpoint: Checkpoint, join: Callable[[Tensors, Tensors, tuple[str, ...]], Tensors]) -> Tensors:
    source, config = checkpoint.tensors, checkpoint.config
    result = {name: t for name, t in source.items() if not name.startswith(("text_layers.", "image_layers."))}
    for layer in (f"{stream}_layers.{i}" for stream in ("text", "image") for i in range(config.layers)):
        tensors = _below(source, layer)
        parameters = {name: tensor for name, tensor in tensors.items() if "_norm." in name}
        for part, readers in READERS.items():
            if replacement := _below(tensors, f"skipped_{part}_adapter"):
                joined = _replacement(replacement)
            else:
                joined = join(_below(tensors, part), _below(tensors, f"{part}_adapter"), readers)
            parameters |= {f"{part}.{name}": tensor for name, tensor in joined.items()}
        result |= {f"{layer}.{name}": tensor for name, tensor in parameters.items()}
    return result


def _below(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}


def _fold(part: Tensors, adapter: Tensors, readers: tuple[str, ...]) -> Tensors:
    """A part's linear layers, with the adapter folded into its readers."""
    folded = dict(part)
    for reader in readers:
        weight, bias = part[f"{reader}.weight"], part[f"{reader}.bias"]
        folded[f"{reader}.weight"] = combine([weight, adapter["B"], adapter["C"]], fold_weight, dtype=torch.float32)
        tensors = [bias, weight, adapter["B"], adapter["b"], adapter["c"]]
        folded[f"{reader}.bias"] = combine(tensors, fold_bias, dtype=torch.float32)
    return folded


def _keep(part: Tensors, adapter: Tensors, readers: tuple[str, ...]) -> Tensors:
    names = {"down.weight": "C", "down.bias": "c", "up.weight": "B", "up.bias": "b"}
    beside = {f"adapter.{ours}": adapter[letter] for ours, letter in names.items()}
    return {f"part.{name}": tensor for name, tensor in part.items()} | beside


def _replacement(letters: Tensors) -> Tensors:
    """down, pool and up of the adapter that replaces a skipped attention."""
    return {
        "down.weight": letters["C"].map(lambda matrix: 0.5 * matrix.float(), dtype=torch.float32),
        "pool.weight": letters["A"].map(lambda matrix: 0.5 * matrix.float(), dtype=torch.float32),
        "pool.bias": combine(
            [letters["a"], letters["c"]], lambda a, c: 0.5 * (a.float() + c.float()), dtype=torch.float32
        ),
        "up.weight": letters["B"],
        "up.bias": letters["b"],
    }
