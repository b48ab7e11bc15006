"""Functions that a graph recorder sees as one call, like torch's own: the network's fused operations, and marks for its parts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from torch.overrides import handle_torch_function, has_torch_function_unary


def recordable(function: Callable) -> Callable:
    """`function`, whose calls an active TorchFunctionMode sees in place of the torch calls inside. The mode knows it by the object
    that is returned here."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if has_torch_function_unary(args[0]):
            return handle_torch_function(call, args[:1], *args, **kwargs)
        return function(*args, **kwargs)

    return call


@recordable
def enter(part: str) -> None:
    """Begin a part of the network: "layers.3"."""


@recordable
def leave(part: str) -> None:
    """End the part that was entered last."""


@contextmanager
def within(part: str) -> Iterator[None]:
    """Name the values recorded inside by a part of the network that is not called as a module."""
    enter(part)
    yield
    leave(part)
