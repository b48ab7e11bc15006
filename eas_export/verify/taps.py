"""A graph of a bundle run for what goes on inside it.

Values of exported graphs have the names of the modules that give them (export/recorder.py), so every graph can show its stages without
having been exported for that: outputs are added to a copy, which is made for one run and thrown away.
"""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from ..backends.contract import Backend
from ..backends.runtime import Runtime, Tensors
from ..bundle.bundle import Bundle
from ..core.errors import OutOfSpace, UserError
from ..core.graph_spec import TensorSpec
from ..core.precision import DTYPES
from ..system.scratch import scratch_folder

GIVEN = " in"  # behind a module's path: what it is given, not what it gives


@dataclass(frozen=True)
class Block:
    """One block of a network.

    path  of its module in the network, and of its values in graphs: "layers.3"
    end   the part of it that gives the block's output; empty where no part does, and the output has the block's own name
    part, layer, kind  see report.BlockLine
    """

    path: str
    layer: int
    kind: str
    part: str = ""
    end: str = ""

    @property
    def output(self) -> str:
        """The name of what it gives."""
        return f"{self.path}.{self.end}".removesuffix(".")

    @property
    def input(self) -> str:
        """The name of what it is given."""
        return self.path + GIVEN


class InstrumentedGraph:
    """A graph that gives values beside its outputs. Raises UserError where it has no such block."""

    def __init__(self, bundle: Bundle, name: str):
        self._bundle, self._name = bundle, name
        self._graph = onnx.load(bundle.graph_file(name), load_external_data=False)
        self._makers = {value: node for node in self._graph.graph.node for value in node.output}
        self._dtypes = {v.name: v.type.tensor_type.elem_type for v in self._graph.graph.value_info}

    def has(self, place: str) -> bool:
        """Whether it has the value of a module, or of what the module is given."""
        return place.removesuffix(GIVEN) in self._makers

    def run(
        self,
        backend: Backend,
        runtime: Runtime,
        inputs: Tensors,
        shapes: Mapping[str, Sequence[int]],
        entries: Sequence[Block] = (),
    ) -> Tensors:
        """The graph's outputs, and these values in float32, by their places.

        backend  one that opens instrumented graphs; runtime: the bundle on it
        shapes   of what modules give ("layers.3.attention.o"), or are given ("layers.3.attention.o in")
        entries  blocks to show the input of, which is shaped as their output is

        Raises UserError where the graph does not run or has no such block, OutOfSpace where the copy cannot be written.
        """
        values = {place: self._value(place) for place in shapes}
        values |= {block.input: self._entry(block) for block in entries}
        of_values = {values[place]: shape for place, shape in shapes.items()}
        of_values |= {values[block.input]: shapes[block.output] for block in entries}
        outputs = self._run(backend, runtime, inputs, of_values)
        shown = {value: outputs.pop(value).float() for value in of_values}
        return outputs | {place: shown[value] for place, value in values.items()}

    def _run(self, backend: Backend, runtime: Runtime, inputs: Tensors, shapes: Mapping[str, Sequence[int]]) -> Tensors:
        names = {row.onnx: name for name, row in DTYPES.items()}
        m, model = self._bundle.manifest, onnx.ModelProto()
        model.CopyFrom(self._graph)
        plain = m.graphs[self._name].pin(runtime.sessions[self._name].spec.measure(inputs))
        more = []
        for value, shape in shapes.items():
            if value not in self._dtypes:
                raise self._unknown(value)
            more.append(TensorSpec(name=value, dtype=names[self._dtypes[value]], shape=tuple(shape)))
            model.graph.output.append(onnx.helper.make_tensor_value_info(value, self._dtypes[value], None))
        graphs = {self._name: plain.model_copy(update={"outputs": (*plain.outputs, *more)})}
        manifest, scratch = m.model_copy(update={"graphs": graphs}), scratch_folder(self._bundle.path)
        with tempfile.TemporaryDirectory(dir=scratch, prefix=".taps-") as folder:
            instrumented = replace(self._bundle, manifest=manifest, graph_folder=Path(folder))
            try:
                instrumented.graph_file(self._name).write_bytes(model.SerializeToString())
            except OSError as error:
                what = f"a debug graph cannot be written there ({error.strerror})"
                raise OutOfSpace(what, where=scratch, fix="make room, or move the bundle to another disk") from error
            return backend.open_instrumented(instrumented).run(self._name, inputs)

    def _value(self, place: str) -> str:
        maker = self._makers.get(place.removesuffix(GIVEN))
        if maker is None:
            raise self._unknown(place)
        return maker.input[0] if place.endswith(GIVEN) else place

    def _entry(self, block: Block) -> str:
        """What a block is given. It has another block's name, or the name of whatever stands before the first one; but sums and norms
        read the residual stream first, so it is found on the way back from what the block gives."""
        value = block.output
        while value == block.path or value.startswith(f"{block.path}."):
            if value not in self._makers:
                raise self._unknown(block.path)
            value = self._makers[value].input[0]
        return value

    def _unknown(self, block: str) -> UserError:
        fix = "the graph was changed after it was built: build again with --force"
        return UserError(f"it has no block {block} as an exported graph has", where=f"graph {self._name}", fix=fix)
