"""Elementwise operations and reductions: operands are cast to the dtype that PyTorch computes in, numbers become constants."""

import math
from functools import partial

import torch
from onnx_ir import tensor_adapters
from torch import Tensor

from ..graph_writer import GraphWriter, NotCovered, meta
from .table import RULES, axis_of, broadcast, like, numbers, rule

Operand = Tensor | float


def cast(w: GraphWriter, x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in another dtype: Cast, or x itself if it has that dtype."""
    if x.dtype == dtype or not x.is_meta:
        return x.to(dtype)
    return w.node("Cast", [x], like(x, dtype), to=int(tensor_adapters.from_torch_dtype(dtype)))


@rule(Tensor.to)
def to(w: GraphWriter, x: Tensor, dtype: torch.dtype) -> Tensor:
    """Tensor.to(dtype) -> Cast. Devices and memory formats are not covered."""
    if not isinstance(dtype, torch.dtype):
        raise NotCovered("only a dtype is supported")
    return cast(w, x, dtype)


@rule(Tensor.float)
def to_float(w: GraphWriter, x: Tensor) -> Tensor:
    """Tensor.float -> Cast to float32."""
    return cast(w, x, torch.float32)


@rule(Tensor.long)
def to_long(w: GraphWriter, x: Tensor) -> Tensor:
    """Tensor.long -> Cast to int64."""
    return cast(w, x, torch.int64)


def _binary(op_type: str, w: GraphWriter, x: Operand, y: Operand) -> Tensor:
    """Two broadcast operands, in the dtype that PyTorch promotes both to. A free size as an operand is taken from a tensor's shape.
    Division of integers, `alpha` and `rounding_mode` are not covered."""
    wide = torch.result_type(x, y)
    if (op_type == "Div" and not wide.is_floating_point) or (
        op_type != "Equal" and (wide == torch.bool) != (op_type == "And")
    ):
        raise NotCovered(f"ONNX's {op_type} does not compute this for {wide}")
    operands = [_operand(w, each, wide) for each in (x, y)]
    shape = broadcast(*(operand.shape for operand in operands))
    return w.node(op_type, operands, meta(shape, torch.bool if op_type in COMPARISONS else wide))


def _swapped(op_type: str, w: GraphWriter, x: Tensor, y: Operand) -> Tensor:
    """With the operands swapped, as `number - tensor` calls it."""
    return _binary(op_type, w, y, x)


def _operand(w: GraphWriter, x: Operand, dtype: torch.dtype) -> Tensor:
    if isinstance(x, Tensor):
        return cast(w, x, dtype)
    if w.is_free(x):
        return cast(w, w.number(x), dtype)
    number = torch.tensor(x, dtype=dtype)
    if math.isfinite(x) and (not number.isfinite() or (number == 0) != (x == 0)):
        raise NotCovered(f"{x} is out of range for {dtype}, in which ONNX computes")
    return number


COMPARISONS = ("Equal", "GreaterOrEqual", "Less")
BINARY = {
    Tensor.add: "Add",
    Tensor.sub: "Sub",
    Tensor.mul: "Mul",
    Tensor.div: "Div",
    Tensor.ge: "GreaterOrEqual",
    Tensor.lt: "Less",
    Tensor.__and__: "And",
}
RULES.update((function, partial(_binary, op_type)) for function, op_type in BINARY.items())
RULES[Tensor.__rsub__] = partial(_swapped, "Sub")
add = partial(_binary, "Add")


@rule(Tensor.ne)
def not_equal(w: GraphWriter, x: Tensor, y: Operand) -> Tensor:
    """x != y -> Not(Equal): ONNX has no operator for it."""
    equal = _binary("Equal", w, x, y)
    return w.node("Not", [equal], like(equal))


@rule(torch.tanh)
def tanh(w: GraphWriter, x: Tensor) -> Tensor:
    """tanh of floating point -> Tanh"""
    if not x.is_floating_point():
        raise NotCovered(f"{x.dtype} would become floating point")
    return w.node("Tanh", [x], like(x))


def _reduction(op_type: str, w: GraphWriter, x: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    """A reduction of one axis. Several axes, and dtypes that PyTorch would widen (a sum of bools), are not covered."""
    _require_own_dtype(x)
    if op_type == "ReduceMean" and not x.is_floating_point():
        raise NotCovered(f"there is no mean of {x.dtype}")
    axis, sizes = axis_of(x, dim), list(x.shape)
    sizes[axis : axis + 1] = [1] if keepdim else []
    return w.node(op_type, [x, numbers(axis)], meta(sizes, x.dtype), keepdims=int(keepdim))


REDUCTIONS = {Tensor.sum: "ReduceSum", Tensor.mean: "ReduceMean", Tensor.amax: "ReduceMax"}
RULES.update((function, partial(_reduction, op_type)) for function, op_type in REDUCTIONS.items())


@rule(Tensor.cumsum)
def cumsum(w: GraphWriter, x: Tensor, dim: int) -> Tensor:
    """Tensor.cumsum -> CumSum. Dtypes that PyTorch would widen are not covered."""
    _require_own_dtype(x)
    return w.node("CumSum", [x, torch.tensor(axis_of(x, dim))], like(x))


def _require_own_dtype(x: Tensor) -> None:
    if not x.is_floating_point() and x.dtype != torch.int64:
        raise NotCovered(f"a sum of {x.dtype} is an int64")
