"""The table of rules, the decorator that fills it, and helpers of many rules.

Rules compute the shapes of their results. PyTorch's meta kernels would, too, but all except views import its compiler, which takes longer
than recording a graph.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..graph_writer import meta

# torch function -> rule(writer, *the function's arguments) -> tensors that represent its results
RULES: dict[Callable, Callable] = {}


def rule(*functions: Callable) -> Callable[[Callable], Callable]:
    """Register the decorated function as the rule of these torch functions."""

    def add(function: Callable) -> Callable:
        RULES.update(dict.fromkeys(functions, function))
        return function

    return add


def like(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A result with the tensor's shape, and its dtype unless another one is given."""
    return meta(tensor.shape, dtype or tensor.dtype)


def broadcast(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape that all shapes broadcast to. Raises ValueError if they do not."""
    return np.broadcast_shapes(*map(tuple, shapes))


def axis_of(tensor: Tensor, dim: int) -> int:
    """A dim as a non-negative axis. Raises ValueError for one that the tensor does not have."""
    return range(tensor.dim()).index(dim if dim >= 0 else dim + tensor.dim())


def numbers(*values: int) -> Tensor:
    """A constant [n] int64."""
    return torch.tensor(values, dtype=torch.int64)
