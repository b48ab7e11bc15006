"""Slicing, indexing, lookups, and tensors made from sizes."""

from types import EllipsisType

import torch
import torch.nn.functional as F
from torch import Tensor

from ..graph_writer import GraphWriter, NotCovered, meta
from .reshaping import unsqueeze
from .table import axis_of, broadcast, like, numbers, rule

Index = int | slice | EllipsisType | None
END = torch.iinfo(torch.int64).max


@rule(Tensor.__getitem__)
def getitem(w: GraphWriter, x: Tensor, index: Index | tuple[Index, ...]) -> Tensor:
    """x[1:, 3, None, ..] -> one Slice for all slices, a Gather for each number, an Unsqueeze for each None. Steps, free sizes as bounds,
    and tensors as indices are not covered."""
    items = _every_axis(index if isinstance(index, tuple) else (index,), x.dim())
    if not all(item is None or type(item) is int or isinstance(item, slice) for item in items):
        raise NotCovered("an index that is not a number, a slice, `...` or None")
    x = _slice(w, x, [item if isinstance(item, slice) else slice(None) for item in items if item is not None])
    axis = 0
    for item in items:
        if type(item) is int:
            x = _select(w, x, axis, item)
        else:
            x = unsqueeze(w, x, axis) if item is None else x
            axis += 1
    return x


def _every_axis(items: tuple[Index, ...], axes: int) -> list[Index]:
    """The index with a full slice for every axis that it does not mention."""
    if not any(item is Ellipsis for item in items):
        items = (*items, Ellipsis)
    place = next(number for number, item in enumerate(items) if item is Ellipsis)
    missing = axes - sum(item is not None and item is not Ellipsis for item in items)
    return [*items[:place], *[slice(None)] * missing, *items[place + 1 :]]


def _slice(w: GraphWriter, x: Tensor, slices: list[slice]) -> Tensor:
    cut = {axis: part for axis, part in enumerate(slices) if part != slice(None)}
    if any(part.step not in (None, 1) or w.is_free(part.start) or w.is_free(part.stop) for part in cut.values()):
        raise NotCovered("a step, or a bound that is a free size")
    if not all(_right_at_every_size(part) for axis, part in cut.items() if w.is_free(x.shape[axis])):
        raise NotCovered("a bound that may exceed a free axis")
    result = x[tuple(slices)]
    if result.shape == x.shape:
        return x
    starts = numbers(*(part.start or 0 for part in cut.values()))
    ends = numbers(*(END if part.stop is None else part.stop for part in cut.values()))
    return w.node("Slice", [x, starts, ends, numbers(*cut)], result)


def _right_at_every_size(part: slice) -> bool:
    """Whether a slice of a free axis, which may be only 1 long, has the same length expression as for a long axis."""
    start, stop = part.start or 0, part.stop
    return start >= -1 if stop is None else start == 0 and (stop == 1 or stop < 0)


def _select(w: GraphWriter, x: Tensor, axis: int, number: int) -> Tensor:
    if w.is_free(number):
        raise NotCovered("an index that is a free size")
    return w.node("Gather", [x, torch.tensor(number)], x.select(axis, number), axis=axis)


@rule(Tensor.chunk)
def chunk(w: GraphWriter, x: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """Tensor.chunk -> Split; x itself for one part. Fewer parts than `chunks` are not covered."""
    parts = x.chunk(chunks, dim)
    if len(parts) != chunks:
        raise NotCovered(f"only {len(parts)} parts")
    return (x,) if chunks == 1 else w.node("Split", [x], parts, axis=axis_of(x, dim), num_outputs=chunks)


@rule(Tensor.index_select)
def index_select(w: GraphWriter, x: Tensor, dim: int, index: Tensor) -> Tensor:
    """Tensor.index_select by a vector -> Gather"""
    if index.dim() != 1:
        raise NotCovered("the index is not a vector")
    return w.node("Gather", [x, index], x.index_select(dim, meta(index.shape, index.dtype)), axis=axis_of(x, dim))


@rule(F.embedding)
def embedding(
    w: GraphWriter,
    ids: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """F.embedding -> Gather. Arguments for training are ignored; max_norm is not covered."""
    if max_norm is not None:
        raise NotCovered("max_norm would change the table")
    return w.node("Gather", [weight, ids], meta((*ids.shape, *weight.shape[1:]), weight.dtype), axis=0)


@rule(torch.where)
def where(w: GraphWriter, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """torch.where of tensors of one dtype -> Where"""
    if x.dtype != y.dtype:
        raise NotCovered(f"{x.dtype} and {y.dtype} would be promoted")
    return w.node("Where", [condition, x, y], meta(broadcast(condition.shape, x.shape, y.shape), x.dtype))


@rule(torch.zeros_like)
def zeros_like(w: GraphWriter, x: Tensor) -> Tensor:
    """torch.zeros_like -> a constant, or its Expand if sizes are free"""
    if not any(map(w.is_free, x.shape)):
        return torch.zeros(x.shape, dtype=x.dtype)
    return w.node("Expand", [torch.zeros((), dtype=x.dtype), w.shape(x.shape)], like(x))


@rule(torch.arange)
def arange(w: GraphWriter, end: int, device: torch.device | None = None) -> Tensor:
    """torch.arange up to a free size -> Range. A start and a step are not covered."""
    return w.node("Range", [torch.tensor(0), w.number(end), torch.tensor(1)], meta([end], torch.int64))
