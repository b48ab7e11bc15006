"""A graph's inputs and outputs as data: the contract between export, backends and generation. No torch, no onnx."""

from typing import Literal

from pydantic import Field

from .errors import InternalError, UserError
from .precision import DTYPES
from .record import Record


class Dim(Record):
    """A dynamic size and its limits.

    opt    the size that engines are tuned for
    limit  the build option that `max` comes from ("max-batch")
    """

    min: int
    opt: int
    max: int
    limit: str


class TensorSpec(Record):
    """A named tensor; a string in `shape` names a Dim of the graph, or a sum of one and a number ("S + 1")."""

    name: str
    dtype: Literal[tuple(DTYPES)]
    shape: tuple[int | str, ...]

    def sizes(self, dims: dict[str, int]) -> tuple[int, ...]:
        """The shape with every named size replaced."""
        return tuple(size if isinstance(size, int) else dims[size] for size in self.shape)


class GraphSpec(Record):
    """One ONNX graph.

    aliases  output name -> input name: both are the same buffer, updated in place (the KV caches)
    """

    name: str
    dims: dict[str, Dim]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    aliases: dict[str, str] = Field(default_factory=dict)

    def measure(self, inputs: dict) -> dict[str, int]:
        """The sizes of the named dims in these tensors. Raises InternalError where two tensors disagree, or where one has the wrong
        shape or dtype."""
        dims: dict[str, int] = {}
        for spec in self.inputs:
            if spec.name not in inputs:
                raise InternalError(f"graph {self.name}: input {spec.name} is missing")
            tensor = inputs[spec.name]
            shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
            expected = tuple(dims.setdefault(s, n) if isinstance(s, str) else s for s, n in zip(spec.shape, shape))
            if len(shape) != len(spec.shape) or shape != expected or dtype != spec.dtype:
                raise InternalError(
                    f"graph {self.name}: input {spec.name} is {dtype} {shape}, not {spec.dtype} {spec.shape} with {dims}"
                )
        return dims

    def require_within(self, sizes: dict[str, int]) -> None:
        """Raise UserError, which names the input, its shape and the option, where a named dim's size is out of its limits."""
        for name, dim in self.dims.items():
            if name in sizes and not dim.min <= sizes[name] <= dim.max:
                tensor = next(t for t in self.inputs if name in t.shape)
                shape = [sizes.get(size, size) for size in tensor.shape]
                raise UserError(
                    f"input {tensor.name} has shape {shape}: {name} is {sizes[name]}, out of range {dim.min}..{dim.max}",
                    where=f"graph {self.name}",
                    fix=f"keep {name} within the range, or build with another --{dim.limit}",
                )

    def pin(self, sizes: dict[str, int]) -> "GraphSpec":
        """The spec with these named dims fixed to their sizes."""

        def pinned(tensor: TensorSpec) -> TensorSpec:
            return tensor.model_copy(update={"shape": tuple(sizes.get(size, size) for size in tensor.shape)})

        return self.model_copy(
            update={
                "dims": {name: dim for name, dim in self.dims.items() if name not in sizes},
                "inputs": tuple(map(pinned, self.inputs)),
                "outputs": tuple(map(pinned, self.outputs)),
            }
        )
