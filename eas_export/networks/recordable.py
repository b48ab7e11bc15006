"""Functions that a recorder of graphs sees whole, as it sees torch's own: the network's fused operations and the names of its parts."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from torch.overrides import handle_torch_function, has_torch_function_unary


def recordable(function: Callable) -> Callable:
    """`function`, with every call handed to the active TorchFunctionMode, where there is one, in place of the calls that it makes
    itself. The mode knows it by the object that is returned here."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if has_torch_function_unary(args[0]):
            return handle_torch_function(call, args[:1], *args, **kwargs)
        return function(*args, **kwargs)

    return call


@recordable
def enter(part: str) -> None:
    """What runs from here on is a part of the network: "layers.3"."""


@recordable
def leave(part: str) -> None:
    """What was entered ends here."""


@contextmanager
def within(part: str) -> Iterator[None]:
    """A part of the network that is no module's own call, by its name: recorded values are named by it."""
    enter(part)
    yield
    leave(part)
