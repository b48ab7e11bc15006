"""The intermediate values of a bundle's graphs.

Values of exported graphs are named after their modules (export/recorder.py), so every graph can show its stages: outputs are added to a
copy, which is deleted after one run.
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

GIVEN = " in"  # after a module's path: its input, not its output


@dataclass(frozen=True)
class Block:
    """One block of a network.

    path  of its module in the network, and of its values in graphs: "layers.3"
    end   the part whose output is the block's; empty where the block's output has the block's own name
    part, layer, kind  see report.BlockLine
    """

    path: str
    layer: int
    kind: str
    part: str = ""
    end: str = ""

    @property
    def output(self) -> str:
        """The place of its output."""
        return f"{self.path}.{self.end}".removesuffix(".")

    @property
    def input(self) -> str:
        """The place of its input."""
        return self.path + GIVEN


class InstrumentedGraph:
    """A graph that shows its intermediate values. Raises UserError where it has no such block."""

    def __init__(self, bundle: Bundle, name: str):
        self._bundle, self._name = bundle, name
        self._graph = onnx.load(bundle.graph_file(name), load_external_data=False)
        self._makers = {value: node for node in self._graph.graph.node for value in node.output}
        self._dtypes = {v.name: v.type.tensor_type.elem_type for v in self._graph.graph.value_info}

    def has(self, place: str) -> bool:
        """Whether the graph has the output of a module, or its input."""
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
        shapes   of modules' outputs ("layers.3.attention.o") and inputs ("layers.3.attention.o in")
        entries  blocks whose inputs are shown, too; they have the shapes of their outputs

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
                what = f"a debug graph cannot be written ({error.strerror})"
                raise OutOfSpace(what, where=scratch, fix="make room, or move the bundle to another disk") from error
            return backend.open_instrumented(instrumented).run(self._name, inputs)

    def _value(self, place: str) -> str:
        maker = self._makers.get(place.removesuffix(GIVEN))
        if maker is None:
            raise self._unknown(place)
        return maker.input[0] if place.endswith(GIVEN) else place

    def _entry(self, block: Block) -> str:
        """The name of a block's input: that of another block, or of whatever precedes the first one. Sums and norms have the residual
        stream as their first input, so it is found by going back from the block's output."""
        value = block.output
        while value == block.path or value.startswith(f"{block.path}."):
            if value not in self._makers:
                raise self._unknown(block.path)
            value = self._makers[value].input[0]
        return value

    def _unknown(self, block: str) -> UserError:
        fix = "build again with --force: the graph was changed after it was built"
        return UserError(
            f"the graph has no value named {block}, which exported graphs have", where=f"graph {self._name}", fix=fix
        )
