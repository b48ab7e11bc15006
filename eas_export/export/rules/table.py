"""The table of rules, how a rule gets into it, and what many of them need.

A rule says itself what shape a result has. PyTorch would say it too, but its meta kernels for all but views import its compiler, which
takes longer than to record a graph.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..graph_writer import meta

# torch function -> rule(writer, the function's arguments) -> tensors that stand for what it gives
RULES: dict[Callable, Callable] = {}


def rule(*functions: Callable) -> Callable[[Callable], Callable]:
    """Make the decorated function the rule of these torch functions."""

    def add(function: Callable) -> Callable:
        RULES.update(dict.fromkeys(functions, function))
        return function

    return add


def like(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A result of the tensor's shape, and of its dtype unless another one is given."""
    return meta(tensor.shape, dtype or tensor.dtype)


def broadcast(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape that all of them are broadcast to. Raises ValueError where they do not fit each other."""
    return np.broadcast_shapes(*map(tuple, shapes))


def axis_of(tensor: Tensor, dim: int) -> int:
    """A dim, counted from the front. Raises ValueError for one that the tensor has not."""
    return range(tensor.dim()).index(dim if dim >= 0 else dim + tensor.dim())


def numbers(*values: int) -> Tensor:
    """A constant [n] int64."""
    return torch.tensor(values, dtype=torch.int64)
