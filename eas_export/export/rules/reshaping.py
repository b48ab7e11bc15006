"""Shape changes and concatenation. Targets are constants wherever at most one size is free."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..free_sizes import FreeSize
from ..graph_writer import GraphWriter, NotCovered, meta
from .table import RULES, axis_of, numbers, rule


@rule(Tensor.shape.__get__)
def shape(w: GraphWriter, x: Tensor) -> tuple[int, ...]:
    """Tensor.shape, with free sizes as FreeSize"""
    return tuple(FreeSize(size) if w.is_free(size) else size for size in x.shape)


@rule(Tensor.dtype.__get__)
def dtype(w: GraphWriter, x: Tensor) -> torch.dtype:
    """Tensor.dtype"""
    return x.dtype


@rule(Tensor.device.__get__)
def device(w: GraphWriter, x: Tensor) -> torch.device:
    """Tensor.device: constants to combine with x are made on the CPU."""
    return torch.device("cpu")


def _reshape(function: Callable, w: GraphWriter, x: Tensor, *args: Any) -> Tensor:
    """view, reshape, flatten, unflatten -> Reshape. The last free size is -1, others are taken from tensors' shapes; a Reshape of a
    Reshape reads the first one's input. Views as another dtype are not covered."""
    sizes = function(x, *args).shape
    source = w.reshaped.get(id(x), x)
    for same in (x, source):
        if same.shape == sizes:
            return same
    target = list(sizes)
    free = [axis for axis, size in enumerate(sizes) if w.is_free(size)]
    if free:
        target[free[-1]] = -1
    result = w.node("Reshape", [source, w.shape(target)], meta(sizes, x.dtype))
    w.reshaped[id(result)] = source
    return result


for function in (Tensor.reshape, Tensor.flatten, Tensor.unflatten):
    RULES[function] = partial(_reshape, function)
RULES[Tensor.view] = partial(_reshape, Tensor.reshape)  # strides of meta tensors may differ from real ones


@rule(Tensor.transpose)
def transpose(w: GraphWriter, x: Tensor, dim0: int, dim1: int) -> Tensor:
    """Tensor.transpose -> Transpose"""
    order = list(range(x.dim()))
    first, second = axis_of(x, dim0), axis_of(x, dim1)
    order[first], order[second] = second, first
    return w.node("Transpose", [x], x.transpose(dim0, dim1), perm=tuple(order))


def unsqueeze(w: GraphWriter, x: Tensor, dim: int) -> Tensor:
    """A new axis of size 1 -> Unsqueeze"""
    result = x.unsqueeze(dim)
    return w.node("Unsqueeze", [x, numbers(axis_of(result, dim))], result)


@rule(Tensor.squeeze)
def squeeze(w: GraphWriter, x: Tensor, dim: int) -> Tensor:
    """Tensor.squeeze of an axis -> Squeeze, or x itself if the axis is not of size 1. A free axis, which may or may not be, is not
    covered."""
    if w.is_free(x.shape[dim]):
        raise NotCovered("the axis is free: its size may or may not be 1")
    return w.node("Squeeze", [x, numbers(axis_of(x, dim))], x.squeeze(dim)) if x.shape[dim] == 1 else x


@rule(Tensor.expand)
def expand(w: GraphWriter, x: Tensor, *sizes: int) -> Tensor:
    """Tensor.expand -> Expand, with target 1 for sizes that stay; x itself if all stay"""
    result = x.expand(*sizes)
    if result.shape == x.shape:
        return x
    own = (1,) * (result.dim() - x.dim()) + tuple(x.shape)
    target = [1 if size == before else size for size, before in zip(result.shape, own)]
    return w.node("Expand", [x, w.shape(target)], result)


@rule(torch.cat)
def cat(w: GraphWriter, tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """torch.cat of tensors of one dtype -> Concat; a single tensor is returned as it is"""
    first = tensors[0]
    if len(tensors) == 1:
        return first
    axis, sizes = axis_of(first, dim), [list(tensor.shape) for tensor in tensors]
    length = sum(each.pop(axis) for each in sizes)
    if any(each != sizes[0] or tensor.dtype != first.dtype for each, tensor in zip(sizes, tensors)):
        raise NotCovered("the tensors differ on another axis or in dtype")
    sizes[0].insert(axis, length)
    return w.node("Concat", tensors, meta(sizes[0], first.dtype), axis=axis)


@rule(torch.stack)
def stack(w: GraphWriter, tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """torch.stack -> an Unsqueeze for each, and Concat"""
    return cat(w, [unsqueeze(w, tensor, dim) for tensor in tensors], dim)
