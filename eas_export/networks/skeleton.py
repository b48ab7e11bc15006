"""Networks without weights, and `linear`: every linear layer, in the precision's weight format."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..core.precision import PRECISIONS, WEIGHT_FORMATS, Precision
from ..core.registry import load

_FORMAT = ContextVar("weight format", default=WEIGHT_FORMATS["plain"])
FILLING = (Tensor.fill_, Tensor.zero_)


@contextmanager
def skeleton(precision: Precision = PRECISIONS["fp32"]) -> Iterator[None]:
    """Inside, modules are built on the meta device, with parameters of the precision's dtype unless they set another, and linear layers in
    its weight format. Nothing is allocated or initialised: initialising on the meta device takes longer than all the rest, and imports
    torch's compiler."""
    before, outer = torch.get_default_dtype(), _FORMAT.set(WEIGHT_FORMATS[precision.weights])
    torch.set_default_dtype(getattr(torch, precision.dtype))
    try:
        with torch.device("meta"), _Unfilled():
            yield
    finally:
        torch.set_default_dtype(before)
        _FORMAT.reset(outer)


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Module:
    """A linear layer of the network that is being built, in its weight format."""
    return load(_FORMAT.get().linear)(inputs, outputs, bias)


class _Unfilled(TorchFunctionMode):
    """New parameters stay as they are allocated."""

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if getattr(function, "__module__", None) == "torch.nn.init" or function in FILLING:
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return function(*args, **(kwargs or {}))
