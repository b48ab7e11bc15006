"""LoRA: low-rank pairs beside the weights that they change. They are merged when the weights are read, and nothing of them is left."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ..core.errors import UserError
from ..core.record import quoted
from .keys import Key, KeyTable
from .lazy_tensor import LazyTensor, combine

A, B, WEIGHT = ".lora_A.weight", ".lora_B.weight", ".weight"
HALF = re.compile(r"(.+)\.lora_[AB]\.weight")
FIX = "give the LoRA and the base model that belong together, with all their files"


def pair_keys(table: KeyTable) -> KeyTable:
    """A row for each half of the pair that may stand beside a matrix of the table: X.lora_A.weight [rank, in] and X.lora_B.weight [out, rank]
    beside X.weight [out, in]."""
    matrices = {pattern: key for pattern, key in table.items() if key and len(key.shape) == 2}
    rows: dict[str, Key] = {}
    for pattern, key in matrices.items():
        (place, ours), (outputs, inputs) = (name.removesuffix(WEIGHT) for name in (pattern, key.name)), key.shape
        rows |= {place + A: Key(ours + A, ("rank", inputs)), place + B: Key(ours + B, (outputs, "rank"))}
    return rows


def merge_pairs(
    tensors: Mapping[str, LazyTensor], scale: Callable[[str, int], float], where: object
) -> dict[str, LazyTensor]:
    """The tensors, where W + scale * B A is in place of each W with a pair: float32, computed in it and rounded by nobody. Nothing is read.

    tensors  X.weight [out, in], X.lora_A.weight [rank, in], X.lora_B.weight [out, rank]; all others stay as they are
    scale    (X, rank) -> the factor; may raise UserError

    Raises UserError for half a pair, a pair without a weight, and shapes that do not fit.
    """
    pairs = dict.fromkeys(match[1] for key in tensors if (match := HALF.fullmatch(key)))
    merged = {key: tensor for key, tensor in tensors.items() if not HALF.fullmatch(key)}
    for name in pairs:
        for half, other in ((A, B), (B, A)):
            if name + half not in tensors:
                what = f"the LoRA has {quoted(name + other)} without {quoted(name + half)}"
                raise UserError(what, where=where, fix=FIX)
        a, b, weight = (tensors.get(name + part) for part in (A, B, WEIGHT))
        if weight is None:
            what = f"the LoRA changes {quoted(name + WEIGHT)}, which the model does not have"
            raise UserError(what, where=where, fix=FIX)
        rank = a.shape[0] if len(a.shape) == 2 else 0
        if not rank or (a.shape, b.shape) != ((rank, *weight.shape[1:]), (*weight.shape[:1], rank)):
            shapes = f"B {list(b.shape)} times A {list(a.shape)} is no change of a weight {list(weight.shape)}"
            raise UserError(f"the LoRA of {quoted(name)} does not fit: {shapes}", where=where, fix=FIX)
        add = partial(_add_product, scale=scale(name, rank))
        merged[name + WEIGHT] = replace(combine([weight, a, b], add, dtype=torch.float32), source=weight.source)
    return merged


def _add_product(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    return torch.addmm(weight.float(), b.float(), a.float(), alpha=scale)
