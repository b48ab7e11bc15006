"""The layers of torch.nn.functional, and products."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...networks import ops
from ..graph_writer import GraphWriter, NotCovered, meta
from .arithmetic import add
from .reshaping import transpose
from .table import axis_of, broadcast, like, numbers, rule


@rule(Tensor.matmul)
def matmul(w: GraphWriter, x: Tensor, y: Tensor) -> Tensor:
    """x @ y -> MatMul. A vector x is not covered."""
    inner, columns = (y.shape[0], ()) if y.dim() == 1 else (y.shape[-2], y.shape[-1:])
    if x.dim() < 2 or x.shape[-1] != inner:
        raise NotCovered("x is a vector, or the inner sizes differ")
    rows = (*broadcast(x.shape[:-2], y.shape[:-2]), x.shape[-2])
    return w.node("MatMul", [x, y], meta((*rows, *columns), x.dtype))


@rule(F.linear)
def linear(w: GraphWriter, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear -> Gemm with the stored weight if x is [n, in]; else Transpose, MatMul and Add"""
    if x.dim() == 2:
        return gemm(w, x, weight, bias)
    product = matmul(w, x, transpose(w, weight, 0, 1))
    return product if bias is None else add(w, product, bias)


@rule(ops.gemm)
def gemm(w: GraphWriter, x: Tensor, weight: Tensor, onto: Tensor | None) -> Tensor:
    """ops.gemm -> Gemm with the stored weight"""
    if x.shape[1] != weight.shape[1]:
        raise NotCovered("the inner sizes differ")
    inputs = [x, weight] if onto is None else [x, weight, onto]
    return w.node("Gemm", inputs, meta([x.shape[0], weight.shape[0]], x.dtype), transB=1)


@rule(F.conv2d)
def conv2d(
    w: GraphWriter,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """F.conv2d -> Conv. Padding, dilation and groups are not covered."""
    if (x.dim(), tuple(padding), tuple(dilation), groups) != (4, (0, 0), (1, 1), 1):
        raise NotCovered("padding, dilation, groups, or an input without a batch")
    inputs = [x, weight] if bias is None else [x, weight, bias]
    places = ((size - part) // step + 1 for size, part, step in zip(x.shape[2:], weight.shape[2:], stride))
    result = meta([x.shape[0], weight.shape[0], *places], x.dtype)
    return w.node("Conv", inputs, result, kernel_shape=tuple(weight.shape[2:]), strides=tuple(stride))


@rule(F.layer_norm)
def layer_norm(
    w: GraphWriter,
    x: Tensor,
    normalized_shape: tuple[int, ...],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """F.layer_norm over the last axis -> LayerNormalization, which sums in float32 like PyTorch; without a weight and a bias, or with both"""
    if tuple(normalized_shape) != tuple(x.shape[-1:]):
        raise NotCovered("more than one axis is normalised")
    if (weight is None) != (bias is None) or any(part is not None and part.dtype != x.dtype for part in (weight, bias)):
        raise NotCovered("one of weight and bias is missing, or of another dtype")
    inputs = [x, torch.ones(normalized_shape, dtype=x.dtype)] if weight is None else [x, weight, bias]
    return w.node("LayerNormalization", inputs, like(x), axis=-1, epsilon=float(eps))


@rule(torch.softmax)
def softmax(w: GraphWriter, x: Tensor, dim: int) -> Tensor:
    """softmax in x's dtype -> Softmax"""
    return w.node("Softmax", [x], like(x), axis=axis_of(x, dim))


@rule(F.relu)
def relu(w: GraphWriter, x: Tensor, inplace: bool = False) -> Tensor:
    """F.relu -> Relu. In place is not covered."""
    if inplace:
        raise NotCovered("x is overwritten")
    return w.node("Relu", [x], like(x))


@rule(F.gelu)
def gelu(w: GraphWriter, x: Tensor, approximate: str = "none") -> Tensor:
    """F.gelu -> Gelu, exact or the tanh approximation"""
    return w.node("Gelu", [x], like(x), **({"approximate": approximate} if approximate != "none" else {}))


@rule(F.pad)
def pad(w: GraphWriter, x: Tensor, pad: tuple[int, ...], mode: str = "constant", value: float | None = None) -> Tensor:
    """F.pad with zeros -> Pad. PyTorch lists (before, after) per axis, from the last axis; ONNX all befores, then all afters. Other values
    and modes are not covered."""
    if mode != "constant" or value:
        raise NotCovered("padding with other values than zero")
    if any(map(w.is_free, pad)):
        raise NotCovered("padding by a free size")
    axes = range(x.dim())
    of_axis = {x.dim() - 1 - number: pad[2 * number : 2 * number + 2] for number in range(len(pad) // 2)}
    ends = [of_axis.get(axis, (0, 0))[end] for end in (0, 1) for axis in axes]
    return w.node("Pad", [x, numbers(*ends)], F.pad(x, pad))
