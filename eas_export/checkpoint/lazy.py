"""Tensors that are known but not read."""

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LazyTensor:
    """A tensor in a file.

    shape, dtype  known without reading
    source        where it comes from, for messages ("consolidated.00.pth: norm.weight")
    read          gives the tensor; a view of the mapped file wherever no conversion is needed. Do not write to it.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    source: str
    read: Callable[[], torch.Tensor]

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()

    def map(self, convert: Callable[[torch.Tensor], torch.Tensor]) -> "LazyTensor":
        """The tensor after `convert`, whose result's shape and dtype are found on a meta tensor, without reading."""
        result = convert(torch.empty(self.shape, dtype=self.dtype, device="meta"))
        return LazyTensor(tuple(result.shape), result.dtype, self.source, lambda: convert(self.read()))


def combine(tensors: list[LazyTensor], convert: Callable[..., torch.Tensor]) -> LazyTensor:
    """`convert(*tensors)` as one lazy tensor; all are read when it is."""
    result = convert(*(torch.empty(t.shape, dtype=t.dtype, device="meta") for t in tensors))
    source = tensors[0].source + (f" and {len(tensors) - 1} more" if len(tensors) > 1 else "")
    return LazyTensor(tuple(result.shape), result.dtype, source, lambda: convert(*(t.read() for t in tensors)))
