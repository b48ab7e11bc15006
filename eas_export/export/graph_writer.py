"""Write an ONNX graph node by node; meta tensors represent its values."""

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir import tensor_adapters
from torch import Tensor

from ..core.errors import InternalError
from ..core.graph_spec import GraphSpec, TensorSpec
from ..core.options import DEFAULT_OPSET
from .free_sizes import FreeSizes


class NotCovered(Exception):
    """No rule covers this, or ONNX cannot express it; the message says why."""


class GraphWriter:
    """The graph under construction, which rules write to.

    Meta tensors represent values of the graph or parameters; real tensors are constants. Values and nodes are named after the part of
    the network that runs, and the last one of a part has the part's own name.

    sizes     the graph's free sizes
    reshaped  id of a Reshape's result -> the tensor that it was reshaped from
    """

    def __init__(self, spec: GraphSpec, sizes: FreeSizes, parameters: dict[str, Tensor]):
        self.sizes = sizes
        self.graph = ir.Graph([], [], nodes=[], opset_imports={"": DEFAULT_OPSET}, name=spec.name)
        self.reshaped: dict[int, Tensor] = {}
        self._parameters = {id(tensor): name for name, tensor in parameters.items()}
        self._known: dict[
            int, tuple[Tensor, ir.Value]
        ] = {}  # by id; the tensor is kept alive, so that its id stays valid
        self._written: dict[tuple, tuple[Tensor, ...]] = {}  # node -> its results; equal nodes are written once
        self._constants: dict[tuple, ir.Value] = {}
        self._places: dict[str, tuple[Tensor, int]] = {}  # free size -> the first tensor that has it, and its axis
        self._parts: list[tuple[str, int]] = []  # running parts, each with the number of nodes at its start
        self._names: set[str] = {tensor.name for tensor in (*spec.inputs, *spec.outputs)} | set(parameters)
        self._named_by_part: set[ir.Node] = set()
        self._overwritten: set[int] = set()

    # Parts

    @property
    def part(self) -> str:
        """The part of the network that is running, "" outside all parts."""
        return self._parts[-1][0] if self._parts else ""

    def enter(self, part: str) -> None:
        """Begin a part: what follows belongs to it."""
        self._parts.append((part, len(self.graph)))

    def leave(self) -> None:
        """End the part. Its last node, which gives its result, takes its name, unless an inner part has named that node."""
        part, before = self._parts.pop()
        last = self.graph[-1] if len(self.graph) > before else None
        if last is not None and last not in self._named_by_part:
            self._named_by_part.add(last)
            self._name(last, part)

    # Nodes

    def node(
        self, op_type: str, inputs: Sequence[Tensor | None], results: Tensor | Sequence[Tensor], **attributes: Any
    ) -> Any:
        """Write a node of the standard domain.

        inputs   None for an omitted one
        results  one tensor or several with the shapes and dtypes of the node's results; their contents do not matter
        returns  new tensors that represent the results; one, or a tuple, as in `results`
        """
        values = [None if tensor is None else self.value(tensor) for tensor in inputs]
        key = (op_type, tuple(map(id, values)), tuple(sorted(attributes.items())))
        if key not in self._written:
            shaped = (results,) if isinstance(results, Tensor) else results
            outputs = tuple(meta(result.shape, result.dtype) for result in shaped)
            node = ir.node(op_type, values, attributes, outputs=[self._new_value(output) for output in outputs])
            self.graph.append(node)
            self._name(node, f"{self.part}.{op_type}".removeprefix("."))
            for output, value in zip(outputs, node.outputs):
                self._know(output, value)
            self._written[key] = outputs
        written = self._written[key]
        return written[0] if isinstance(results, Tensor) else written

    def size(self, size: int) -> Tensor:
        """A size as a tensor [1] int64: a constant if it is fixed, else taken from the shape of the first tensor that has it."""
        name = self.sizes.name(size)
        if isinstance(name, int):
            return torch.tensor([size])
        if name not in self._places:
            raise NotCovered(f"no tensor has the size {name}")
        tensor, axis = self._places[name]
        return self.node("Shape", [tensor], meta([1], torch.int64), start=axis, end=axis + 1)

    def number(self, size: int) -> Tensor:
        """A size as a tensor [] int64."""
        return self.node("Squeeze", [self.size(size)], meta([], torch.int64))

    def shape(self, sizes: Sequence[int]) -> Tensor:
        """Sizes, or -1, as a tensor [n] int64."""
        parts: list[Tensor] = []
        for part in map(self.size, sizes):
            if parts and not (part.is_meta or parts[-1].is_meta):
                parts[-1] = torch.cat([parts[-1], part])
            else:
                parts.append(part)
        return parts[0] if len(parts) == 1 else self.node("Concat", parts, meta([len(sizes)], torch.int64), axis=0)

    def is_free(self, size: object) -> bool:
        """Whether a size was derived from free ones."""
        return isinstance(size, int) and abs(size) > self.sizes.fixed

    def value(self, tensor: Tensor) -> ir.Value:
        """The value that a tensor represents. Parameters and constants become initializers on first use. Raises NotCovered for a meta
        tensor that is neither a value nor a parameter."""
        if id(tensor) in self._overwritten:
            raise NotCovered("the tensor was overwritten: read the result of the write instead")
        if id(tensor) in self._known:
            return self._known[id(tensor)][1]
        if not tensor.is_meta:
            return self._constant(tensor)
        if id(tensor) not in self._parameters:
            raise NotCovered(f"a tensor {list(tensor.shape)} is neither a node's result nor a parameter of the network")
        value = self._new_value(tensor)
        value.name = self._parameters[id(tensor)]
        self.graph.initializers[value.name] = value
        return self._know(tensor, value)

    def overwrite(self, tensor: Tensor) -> None:
        """Mark a tensor whose memory a node has overwritten: it must not be read any more."""
        self._overwritten.add(id(tensor))

    # Inputs and outputs

    def add_input(self, spec: TensorSpec) -> Tensor:
        """Add an input to the graph. Returns the tensor that represents it."""
        tensor = meta(spec.sizes(self.sizes.numbers), getattr(torch, spec.dtype))
        value = self._new_value(tensor)
        value.name = spec.name
        self.graph.inputs.append(self._know(tensor, value))
        return tensor

    def add_output(self, spec: TensorSpec, tensor: Tensor) -> None:
        """Add an output to the graph. Raises InternalError where the tensor does not match the spec."""
        value = self.value(tensor)
        if value.producer() is None or value in self.graph.outputs:  # its name must stay
            copy = ir.node("Identity", [value], outputs=[self._new_value(tensor)])
            self.graph.append(copy)
            self._name(copy, "Identity")
            value = copy.outputs[0]
        shape = tuple(map(self.sizes.name, tensor.shape))
        if (shape, tensor.dtype) != (spec.shape, getattr(torch, spec.dtype)):
            raise InternalError(
                f"graph {self.graph.name}: {spec.name} is {tensor.dtype} {shape}, its spec says {spec.dtype} {spec.shape}"
            )
        value.name = spec.name
        self.graph.outputs.append(value)

    # Values and names

    def _new_value(self, tensor: Tensor) -> ir.Value:
        shape = ir.Shape([self.sizes.name(size) for size in tensor.shape])
        dtype = tensor_adapters.from_torch_dtype(tensor.dtype)
        return ir.Value(shape=shape, type=ir.TensorType(dtype))

    def _know(self, tensor: Tensor, value: ir.Value) -> ir.Value:
        self._known[id(tensor)] = tensor, value
        for axis, size in enumerate(value.shape):
            if not isinstance(size, int):
                self._places.setdefault(size.value, (tensor, axis))
        return value

    def _constant(self, tensor: Tensor) -> ir.Value:
        content = tensor_adapters.TorchTensor(tensor.detach().clone(memory_format=torch.contiguous_format))
        key = (tensor.dtype, tuple(tensor.shape), content.tobytes())
        if key not in self._constants:
            name = content.name = self._unused("constant")
            value = ir.Value(name=name, shape=content.shape, type=ir.TensorType(content.dtype), const_value=content)
            self._constants[key] = self.graph.initializers[name] = value
        return self._constants[key]

    def _name(self, node: ir.Node, name: str) -> None:
        node.name = name = self._unused(name)
        for number, output in enumerate(node.outputs):
            output.name = name if len(node.outputs) == 1 else f"{name}.{number}"

    def _unused(self, name: str) -> str:
        """The name, or the first of <name>_1, <name>_2, .. that is not taken."""
        unused, number = name, 0
        while unused in self._names:
            number += 1
            unused = f"{name}_{number}"
        self._names.add(unused)
        return unused


def meta(sizes: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor without contents that represents a value of this shape and dtype."""
    return torch.empty(tuple(sizes), dtype=dtype, device="meta")
