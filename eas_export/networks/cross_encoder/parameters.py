"""A cross-encoder's parameters. Its adapters do not depend on a prompt, so the linear ones before linear layers are folded offline:

    F(x) = x + B(C x + c) + b,   W F(x) + w = (W + (W B) C) x + (W (B c + b) + w)

The adapters of skipped attentions do not fold (a norm follows them); their 0.5 goes into the matrices that it multiplies. Of adapters with an
activation, their norm's weight g and bias h are folded:    W (g n + h) + w = (W diag(g)) n + (W h + w)
Everything is computed in float32.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.lazy_tensor import LazyTensor, combine
from ...core.configs.cross_encoder import STREAMS, CrossEncoderConfig
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


def fold_gain(weight: Tensor, gain: Tensor) -> Tensor:
    """W diag(g): [out, dim], [dim] -> [out, dim] float32"""
    return weight.float() * gain.float()


def fold_shift(bias: Tensor, weight: Tensor, shift: Tensor) -> Tensor:
    """w + W h: [out], [out, dim], [dim] -> [out] float32"""
    return bias.float() + weight.float() @ shift.float()


def useless(config: CrossEncoderConfig, plan: SkipPlan) -> list[str]:
    """Name prefixes of the tensors that the plan makes useless: what is skipped, with the adapters before and beside it, and the replacement of
    what is kept."""
    skipped, gone = config.attentions(plan.skipped), []
    for attention in config.every_attention():
        parts = (attention.part,) if config.site == "attention" else (*READERS, *(f"{each}_norm" for each in READERS))
        kept = [*parts, *(f"{part}_adapter" for part in parts if part in READERS and config.before_adapter)]
        beside = {
            "attention": config.beside_adapter,
            "cross_attention": config.beside_adapter,
            "ffn": config.behind_adapter,
        }
        kept += [f"adapters.{part}" for part in parts if beside.get(part)]
        replacement = f"skipped_{attention.part}_adapter" if config.site == "attention" else "skipped_adapter"
        place = f"{attention.stream}_layers.{attention.layer}"
        gone += [f"{place}.{name}." for name in (kept if attention in skipped else [replacement])]
    return [*dict.fromkeys(gone)]  # a layer's attentions are skipped together


def folded_parameters(checkpoint: Checkpoint, plan: SkipPlan, limits: Limits) -> Tensors:
    """The parameters of folded_cross_encoder (networks/cross_encoder/modules.py) from a pruned checkpoint. Nothing is read."""
    before = checkpoint.config.before_adapter
    return _parameters(checkpoint, _fold if before and before.is_linear else _keep, _fold_norm)


def unfolded_parameters(checkpoint: Checkpoint, plan: SkipPlan) -> Tensors:
    """The parameters of unfolded_cross_encoder, the network as it was trained, in float32."""
    parameters = _parameters(checkpoint, _keep, dict)
    return {name: tensor.map(Tensor.float, dtype=torch.float32) for name, tensor in parameters.items()}


def _parameters(
    checkpoint: Checkpoint,
    join: Callable[[Tensors, Tensors, tuple[str, ...]], Tensors],
    bottleneck: Callable[[Tensors], Tensors],
) -> Tensors:
    """join: a part's tensors, its adapter's and its READERS -> the part's parameters; bottleneck: an adapter's tensors -> its parameters"""
    source, config = checkpoint.tensors, checkpoint.config
    result = {name: t for name, t in source.items() if not name.startswith(("text_layers.", "image_layers."))}
    for layer in (f"{stream}_layers.{i}" for stream in STREAMS for i in range(config.layers)):
        tensors = _below(source, layer)
        parameters = {name: tensor for name, tensor in tensors.items() if name.split(".")[0].endswith("_norm")}
        for part, readers in READERS.items():
            joined = _below(tensors, part)
            if replacement := _below(tensors, f"skipped_{part}_adapter"):
                joined = _replacement(replacement)
            elif adapter := _below(tensors, f"{part}_adapter"):
                joined = join(joined, adapter, readers)
            parameters |= {f"{part}.{name}": tensor for name, tensor in joined.items()}
        for place in (*(f"adapters.{part}" for part in READERS), "skipped_adapter"):
            parameters |= {f"{place}.{name}": t for name, t in bottleneck(_below(tensors, place)).items()}
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


def _fold_norm(adapter: Tensors) -> Tensors:
    """An adapter with its norm's weight and bias, where it has them, folded into `down`."""
    if "norm.weight" not in adapter:
        return adapter
    folded = {name: tensor for name, tensor in adapter.items() if not name.startswith("norm.")}
    weight, bias = adapter["down.weight"], adapter["down.bias"]
    folded["down.weight"] = combine([weight, adapter["norm.weight"]], fold_gain, dtype=torch.float32)
    folded["down.bias"] = combine([bias, weight, adapter["norm.bias"]], fold_shift, dtype=torch.float32)
    return folded


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
