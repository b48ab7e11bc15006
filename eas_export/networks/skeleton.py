"""Networks without weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

FILLING = (Tensor.fill_, Tensor.zero_)


@contextmanager
def skeleton(dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Inside, modules are built on the meta device, their parameters of this dtype unless they say another one. Nothing is allocated, and
    nothing computed: what torch does to initialise a module takes longer there than all the rest, and imports its compiler."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"), _Unfilled():
            yield
    finally:
        torch.set_default_dtype(before)


class _Unfilled(TorchFunctionMode):
    """New parameters stay as they are allocated."""

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if getattr(function, "__module__", None) == "torch.nn.init" or function in FILLING:
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return function(*args, **(kwargs or {}))
