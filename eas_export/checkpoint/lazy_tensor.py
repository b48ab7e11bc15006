"""Tensors whose shape and dtype are known before they are read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch

from ..core.errors import InternalError

OF_CONFIG = "computed from the config"  # the source of a tensor that is in no file
PIECE = 1 << 22  # numbers that are converted at a time, in whole rows


@dataclass(frozen=True)
class LazyTensor:
    """A tensor in a file.

    shape, dtype  of the tensor that `read` returns
    source        where it comes from, for messages ("consolidated.00.pth: norm.weight")
    read          returns the tensor; a view of the mapped file wherever no conversion is needed. Do not write to it.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    source: str
    read: Callable[[], torch.Tensor]

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()

    def map(
        self,
        convert: Callable[[torch.Tensor], torch.Tensor],
        shape: Sequence[int] | None = None,
        dtype: torch.dtype | None = None,
    ) -> "LazyTensor":
        """The tensor after `convert`, which returns a tensor of this shape and dtype; by default the tensor's own."""
        return combine([self], convert, shape, dtype)


def differ(a: LazyTensor, b: LazyTensor, rounding: float = 0.0) -> bool:
    """Whether two tensors hold different numbers, or such that differ by more than a relative `rounding`. Reads both; converts a piece of
    them at a time."""
    if a.shape != b.shape:
        return True
    rows = 1 + PIECE // (1 + prod(a.shape[1:]))
    pieces = zip(*(torch.atleast_1d(tensor.read()).split(rows) for tensor in (a, b)))
    allowed = {"rtol": rounding, "atol": rounding * torch.finfo(torch.float16).tiny}
    return not all(torch.allclose(*(part.float() for part in parts), **allowed) for parts in pieces)


def combine(
    tensors: Sequence[LazyTensor],
    convert: Callable[..., torch.Tensor],
    shape: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
) -> LazyTensor:
    """`convert(*tensors)` as one lazy tensor, which reads all of them.

    shape, dtype  of the result, by default the first tensor's. They are not derived on meta tensors, whose arithmetic imports PyTorch's
                  compiler, but checked when the tensor is read: InternalError where they are wrong
    """
    first = tensors[0]
    shape, dtype = first.shape if shape is None else tuple(shape), first.dtype if dtype is None else dtype
    source = first.source + (f" and {len(tensors) - 1} more" if len(tensors) > 1 else "")

    def read() -> torch.Tensor:
        result = convert(*(tensor.read() for tensor in tensors))
        if (tuple(result.shape), result.dtype) != (shape, dtype):
            raise InternalError(f"{source} became {result.dtype} {tuple(result.shape)}, expected {dtype} {shape}")
        return result

    return LazyTensor(shape, dtype, source, read)
