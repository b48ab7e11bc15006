"""A decoder's parameters from a pruned checkpoint, with everything folded in that does not depend on the prompt.

Scale, temperature and the 0.5 of the skipped adapter go into the matrices they multiply; a skipped layer's ffn_norm weight
goes into gate and up (W diag(g)), a scale of what layers add into o and down, one of the logits into the last norm. Every conversion is computed
in float32 and rounded once, to the parameter's dtype.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ...checkpoint.checkpoint import Checkpoint
from ...checkpoint.lazy_tensor import LazyTensor, combine
from ...core.configs.adapter import AdapterConfig
from ...core.configs.decoder import ModelConfig
from ...core.limits import Limits
from ...core.plan import SkipPlan
from ..fold import fold_bias, fold_linear, mix, stack_inner, stack_inner_bias, stack_outer
from .blocks import KeptBlock
from .rope import rotary_tables
from .routers import MODALITIES

Tensors = dict[str, LazyTensor]
WIDE = torch.float32


def parameters(checkpoint: Checkpoint, plan: SkipPlan, limits: Limits) -> Tensors:
    """Every parameter of a decoder and its tower, by its name in the network, in the checkpoint's dtype or float32. Nothing is read.

    checkpoint  after `prune` with the same plan
    """
    config, source = checkpoint.config, _scaled(checkpoint)
    skipped = {"attention": _skipped, "layer": _skipped_layer}[config.site]
    result = {name: t for name, t in source.items() if not name.startswith(("layers.", "vision."))}
    for i in range(config.layers):
        tensors = {n.removeprefix(f"layers.{i}."): t for n, t in source.items() if n.startswith(f"layers.{i}.")}
        block = skipped(tensors, config) if i in plan.skipped else _kept(tensors, config)
        result |= {f"layers.{i}.{name}": tensor for name, tensor in block.items()}
    result |= _vision({n.removeprefix("vision."): t for n, t in source.items() if n.startswith("vision.")}, config)
    if plan.kept:
        result |= rotary_tables(config, limits)
    if config.norm_offset:  # kept in float32 as "gain", see blocks.OffsetNorm
        result = {f"{name.removesuffix('weight')}gain" if _is_norm(name) else name: t for name, t in result.items()}
    return result


def _scaled(checkpoint: Checkpoint) -> Tensors:
    """The checkpoint's tensors with norms' offsets, residual_scale and logit_scale folded in."""
    config, result = checkpoint.config, dict(checkpoint.tensors)

    def change(name: str, function: Callable[[Tensor], Tensor]) -> None:
        tensor = result[name]
        result[name] = tensor.map(lambda t: function(t.float()), tensor.shape, WIDE)

    for name in result if config.norm_offset else ():
        if _is_norm(name):
            change(name, lambda w: 1 + w)
    for name in result if config.residual_scale != 1 else ():
        if name.startswith("layers.") and any(part in name for part in (".attention.o.", ".ffn.down.")):
            change(name, lambda t: t * config.residual_scale)
    if config.logit_scale != 1:
        change("norm.weight", lambda w: w * config.logit_scale)
    return result


def _is_norm(name: str) -> bool:
    """Whether a tensor is the weight of one of the decoder's norms."""
    return name.endswith("norm.weight") and not name.startswith("vision.")


def _kept(tensors: Tensors, config: ModelConfig) -> Tensors:
    plain = {name: t for name, t in tensors.items() if not name.startswith("kept_adapter.")}
    if config.kept_adapter is None:
        return plain
    if config.router != "folded":
        return plain | _adapter(tensors, "kept_adapter.", config.kept_adapter, inner=("A", "a"), half=1.0)
    adapter = [tensors[f"kept_adapter.{letter}"] for letter in "AaBbDdw"]

    def folded(weight: LazyTensor, modality: int, fold: Callable[..., Tensor], shape: tuple[int, ...]) -> LazyTensor:
        def convert(matrix: Tensor, *letters: Tensor) -> Tensor:
            return fold(matrix.float(), *_factors(config.kept_adapter, modality, *letters))

        return combine([weight, *adapter], convert, shape, WIDE)

    for part in KeptBlock.folds:
        weight = plain.pop(f"{part}.weight")
        for which, name in enumerate(MODALITIES):
            plain[f"{part}.{name}.weight"] = folded(weight, which, lambda *each: fold_linear(*each)[0], weight.shape)
            plain[f"{part}.{name}.bias"] = folded(weight, which, fold_bias, weight.shape[:1])
    return plain


def _factors(config: AdapterConfig, modality: int, *letters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """An adapter before an attention as the last arguments of networks/fold.fold_linear, for one modality. letters: A, a, B, b, D, d, w"""
    half = len(letters[1]) + 1
    inner, bias = stack_inner(letters[0].float())[:half], stack_inner_bias(letters[1].float())[:half]
    return _outer(config, modality, *letters[2:]), inner, bias


def _outer(config: AdapterConfig, modality: int, *letters: Tensor) -> Tensor:
    """U of one modality, [dim, rank + 1] float32. letters: B, b, D, d, and router weights of both modalities, w [2, 2]"""
    *outer, table = (letter.float() for letter in letters)
    return mix(stack_outer(*outer, config.scale), table[modality])


def _skipped_layer(tensors: Tensors, config: ModelConfig) -> Tensors:
    norm = {"norm.weight": tensors["norm.weight"]}
    if config.router != "folded":
        return norm | _adapter(tensors, "skipped_adapter.", config.skipped_adapter, inner=("A", "a"), half=1.0)
    letters = [tensors[f"skipped_adapter.{letter}"] for letter in "BbDdw"]
    dim, rank = letters[0].shape
    result = norm | {"inner.weight": tensors["skipped_adapter.A"], "inner.bias": tensors["skipped_adapter.a"]}
    for which, name in enumerate(MODALITIES):
        outer = combine(letters, lambda *each, i=which: _outer(config.skipped_adapter, i, *each), (dim, rank + 1), WIDE)
        result[f"change.{name}.weight"] = outer.map(lambda u: u[:, :-1], (dim, rank))
        result[f"change.{name}.bias"] = outer.map(lambda u: u[:, -1], (dim,))
    return result


def _skipped(tensors: Tensors, config: ModelConfig) -> Tensors:
    gain = tensors["ffn_norm.weight"]
    premultiplied = {
        f"ffn.{part}.weight": combine(
            [tensors[f"ffn.{part}.weight"], gain], lambda w, g: w.float() * g.float(), dtype=torch.float32
        )
        for part in ("gate", "up")
    }
    alone = ("ffn_norm.", "skipped_adapter.")  # what is converted
    rest = {name: t for name, t in tensors.items() if not name.startswith(alone) and name not in premultiplied}
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
    outer, wide = [part[letter] for letter in "BbDd"], WIDE
    dim, width = outer[0].shape[0], 2 * (config.rank + 1)
    router = (
        {"router.table": part["w"]}
        if "w" in part
        else {
            "router.weight": part["E"].map(lambda e: e.float() / config.temperature, dtype=wide),
            "router.bias": part["e"].map(lambda e: e.float() / config.temperature, dtype=wide),
        }
    )
    return router | {
        "adapter.down.weight": part[inner[0]].map(lambda m: stack_inner(half * m.float()), (width, dim), wide),
        "adapter.down.bias": part[inner[1]].map(lambda m: stack_inner_bias(half * m.float()), (width,), wide),
        "adapter.up": combine(
            outer, lambda *parts: stack_outer(*(t.float() for t in parts), config.scale), (dim, width), wide
        ),
    }


def useless(config: ModelConfig, plan: SkipPlan) -> list[str]:
    """Name prefixes of what a skip leaves out and of the kept-layer adapter, of skipped layers, and of the skipped-layer adapter of kept ones."""
    beside = ("post_attention_norm",) if config.sandwich_norms else ()
    parts = {"attention": ("attention", *beside), "layer": ("attention", "ffn", "ffn_norm")}[config.site]
    if not config.has_adapters:
        return [f"layers.{i}.{part}." for i in plan.skipped for part in parts]
    gone = [f"layers.{i}.{part}." for i in plan.skipped for part in (*parts, "kept_adapter")]
    return gone + [f"layers.{i}.skipped_adapter." for i in plan.kept]


def without_adapters(config: ModelConfig) -> tuple[ModelConfig, tuple[str, ...], bool]:
    """The config without adapters, parts of their tensors' names, and whether what training skipped is kept: layers that were skipped as a
    whole would be nothing at all. The modality token changes nothing without adapters."""
    vision = config.vision and config.vision.model_copy(update={"adapter": None})
    adapters = {"kept_adapter": None, "skipped_adapter": None, "site": "attention", "vision": vision}
    token = {"modality_token": False, "first_position": config.prompt_position}
    parts = (".kept_adapter.", ".skipped_adapter.", ".adapter.", "modality.")
    return config.model_copy(update=adapters | token), parts, config.site == "layer"
