"""Record a graph's module as an ONNX model without weights: the module runs once, and a rule (rules/) writes every torch function that
it calls as ONNX nodes.

Tensors are on the meta device, so nothing is computed or allocated, and free sizes are numbers that are recognised wherever they occur
(free_sizes.py). What depends on fixed numbers only is computed while recording and becomes a constant. A function or an argument
without a rule, a size of unknown origin, or a value that Python needs raises InternalError; nothing is guessed.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes import common
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from ..core.errors import InternalError
from ..core.graph_spec import GraphSpec
from ..networks.network import store_name
from ..networks.recordable import enter, leave
from .free_sizes import FreeSize, FreeSizes, plain
from .graph_writer import GraphWriter
from .rules import RULES

IR_VERSION = 10  # opset 21's, for consumers of the lowered graphs that know no newer one


def record(module: nn.Module, spec: GraphSpec) -> ir.Model:
    """Record the module as ONNX: inputs and outputs have the spec's names and shapes, initializers have the store's names and no values.
    All other values and nodes are named by their module's path ("layers.3.attention.q"), the same in every recording.

    module  on the meta device; forward(inputs by name) -> outputs by name

    Raises InternalError where the module does not match the spec, and for what cannot be recorded.
    """
    parameters = {store_name(name.removeprefix("network.")): p for name, p in module.named_parameters()}
    if real := [name for name, parameter in parameters.items() if not parameter.is_meta]:
        raise InternalError(f"graph {spec.name}: {real[0]} is not on the meta device and would become a constant")
    sizes = [size for tensor in (*spec.inputs, *spec.outputs, *parameters.values()) for size in tensor.shape]
    free = FreeSizes(tuple(spec.dims), max((size for size in sizes if isinstance(size, int)), default=1))
    writer = GraphWriter(spec, free, parameters)
    inputs = {tensor.name: writer.add_input(tensor) for tensor in spec.inputs}
    with torch.no_grad(), _parts_of(module, writer), Recorder(writer):
        outputs = module(inputs)
    if list(outputs) != [tensor.name for tensor in spec.outputs]:
        names = [tensor.name for tensor in spec.outputs]
        raise InternalError(f"graph {spec.name} has outputs {list(outputs)}, its spec says {names}")
    for tensor in spec.outputs:
        writer.add_output(tensor, outputs[tensor.name])
    model = ir.Model(writer.graph, ir_version=IR_VERSION, producer_name="eas-export")
    return common.RemoveUnusedNodesPass()(model).model


class Recorder(TorchFunctionMode):
    """Writes every torch function, and every recordable function of networks/, by its rule."""

    def __init__(self, writer: GraphWriter):
        super().__init__()
        self.writer = writer

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if function is enter:
            return self.writer.enter(*args)
        if function is leave:
            return self.writer.leave()
        leaves = list(_leaves((args, kwargs)))
        if not any(isinstance(leaf, FreeSize) or (isinstance(leaf, Tensor) and leaf.is_meta) for leaf in leaves):
            return function(*args, **kwargs)  # all arguments are constants
        if function not in RULES:
            raise self._not_covered(function, args, kwargs, "there is no rule for it")
        if large := [leaf for leaf in leaves if self.writer.is_free(leaf)]:
            raise self._not_covered(function, args, kwargs, f"{large[0]} would be mistaken for a free size")
        args, kwargs = _plain(args), _plain(kwargs)
        try:
            return RULES[function](self.writer, *args, **kwargs)
        except Exception as error:
            raise self._not_covered(function, args, kwargs, str(error)) from error

    def _not_covered(self, function: Callable, args: tuple, kwargs: dict, why: str) -> InternalError:
        name = resolve_name(function) or f"{function.__module__}.{function.__qualname__}"
        arguments = [*map(self._shown, args), *(f"{key}={self._shown(value)}" for key, value in kwargs.items())]
        place = ", ".join(part for part in (f"graph {self.writer.graph.name}", self.writer.part) if part)
        return InternalError(f"{place}: {name}({', '.join(arguments)}) cannot be recorded: {why}")

    def _shown(self, argument: object) -> str:
        """An argument for a message: tensors by dtype and shape, free sizes by name."""
        if isinstance(argument, Tensor):
            return f"{argument.dtype} {self._shown(list(argument.shape))}".removeprefix("torch.")
        if isinstance(argument, list | tuple):
            return f"[{', '.join(map(self._shown, argument))}]"
        number = plain(argument)
        return self._named(number) if self.writer.is_free(number) else repr(number)

    def _named(self, size: int) -> str:
        try:
            return str(self.writer.sizes.name(size))
        except ValueError:
            return str(size)


@contextmanager
def _parts_of(module: nn.Module, writer: GraphWriter) -> Iterator[None]:
    """While active, calls of the network's modules are parts of the graph."""
    with ExitStack() as hooks:
        for path, part in module.named_modules():
            path = store_name(path.removeprefix("network").removeprefix("."))
            if path:
                begin = part.register_forward_pre_hook(lambda module, args, path=path: writer.enter(path))
                end = part.register_forward_hook(lambda module, args, result: writer.leave())
                hooks.callback(begin.remove)
                hooks.callback(end.remove)
        yield


def _leaves(value: Any) -> Iterator[object]:
    """The leaves of nested arguments."""
    if isinstance(value, dict):
        value = value.values()
    elif isinstance(value, slice):
        value = (value.start, value.stop, value.step)
    elif not isinstance(value, list | tuple):
        yield value
        return
    for part in value:
        yield from _leaves(part)


def _plain(value: Any) -> Any:
    """Nested arguments with free sizes as their numbers."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, slice):
        return slice(*map(_plain, (value.start, value.stop, value.step)))
    if isinstance(value, list | tuple):
        return [*map(_plain, value)] if isinstance(value, list) else tuple(map(_plain, value))
    return plain(value)
