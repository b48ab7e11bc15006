"""A graph of a bundle run for what goes on inside it: a debug graph, made for one run and thrown away."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto
from torch import Tensor

from ..backends.contract import Backend
from ..backends.runtime import Runtime, Tensors
from ..bundle.bundle import Bundle
from ..core.configs.decoder import ModelConfig
from ..core.errors import NoRoom
from ..core.graph_spec import TensorSpec
from ..core.precision import DTYPES, PRECISIONS
from ..system.scratch import scratch_folder
from .stages import OUT, find_boundaries, find_stages

Place = tuple[int, str]  # layer and stage; layer -1 is what the first block is given


@dataclass(frozen=True)
class TappedBundle(Bundle):
    """A bundle whose graphs lie elsewhere: they give more than the bundle's own."""

    graphs: Path

    def graph_file(self, name: str) -> Path:
        return self.graphs / f"{name}.onnx"


def boundary_taps(bundle: Bundle, graph: str) -> dict[Place, str]:
    """Every block's output, and what the first one is given -> the value in the graph."""
    found = find_boundaries(load_graph(bundle, graph), bundle.manifest.config.layers)
    return {(layer, OUT): value for layer, value in found.items()}


def stage_taps(bundle: Bundle, graph: str, layer: int) -> dict[Place, str]:
    """One layer's stages -> the value in the graph."""
    return {(layer, stage): value for stage, value in find_stages(load_graph(bundle, graph), layer).items()}


def run_tapped(
    bundle: Bundle, backend: Backend, runtime: Runtime, graph: str, inputs: Tensors, taps: Mapping[Place, str]
) -> tuple[Tensors, dict[Place, Tensor]]:
    """Run a graph of the bundle: its outputs, and what the taps gave, [rows, width] each in float32.

    backend  one that opens tapped graphs
    runtime  the bundle on it

    Raises UserError where the graph does not run, NoRoom where the debug graph cannot be written.
    """
    m = bundle.manifest
    sizes = runtime.sessions[graph].spec.measure(inputs)
    rows = sizes.get("B", 1) * (sizes["S"] + m.config.prefix if "S" in sizes else 1)
    named = {_name(place): (value, (rows, _width(m.config, place[1]))) for place, value in taps.items()}
    outputs = run_with_outputs(bundle, backend, runtime, graph, inputs, named)
    return outputs, {place: outputs.pop(_name(place)).float() for place in taps}


def run_with_outputs(
    bundle: Bundle,
    backend: Backend,
    runtime: Runtime,
    graph: str,
    inputs: Tensors,
    values: Mapping[str, tuple[str, tuple[int, ...]]],
) -> Tensors:
    """Run a graph of the bundle that gives more: output -> the value in the graph and its shape. Arguments and errors as for `run_tapped`."""
    m = bundle.manifest
    dtype = PRECISIONS[m.precision].dtype
    specs = [TensorSpec(name=name, dtype=dtype, shape=shape) for name, (_, shape) in values.items()]
    plain = m.graphs[graph].pin(runtime.sessions[graph].spec.measure(inputs))
    spec = plain.model_copy(update={"outputs": (*plain.outputs, *specs)})
    model = _with_outputs(load_graph(bundle, graph), {n: value for n, (value, _) in values.items()}, DTYPES[dtype].onnx)
    scratch = scratch_folder(bundle.path)
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".taps-") as folder:
        tapped = TappedBundle(bundle.path, m.model_copy(update={"graphs": {graph: spec}}), Path(folder))
        try:
            tapped.graph_file(graph).write_bytes(model.SerializeToString())
        except OSError as error:
            what = f"a debug graph cannot be written there ({error.strerror})"
            raise NoRoom(what, where=scratch, fix="make room, or move the bundle to another disk") from error
        return backend.open_tapped(tapped).run(graph, inputs)


def load_graph(bundle: Bundle, graph: str) -> ModelProto:
    """A graph of the bundle without its weights."""
    return onnx.load(bundle.graph_file(graph), load_external_data=False)


def _width(config: ModelConfig, stage: str) -> int:
    """Of what a stage gives for one token."""
    if stage in ("k", "v"):
        return config.kv_dim
    return config.ffn_dim if stage in ("gate", "up") else config.dim


def _with_outputs(model: ModelProto, taps: Mapping[str, str], dtype: int) -> ModelProto:
    """The graph giving these values too: output -> value; dtype: theirs, by ONNX's number."""
    for output, value in taps.items():
        model.graph.node.append(onnx.helper.make_node("Identity", [value], [output]))
        model.graph.output.append(onnx.helper.make_tensor_value_info(output, dtype, None))
    return model


def _name(place: Place) -> str:
    return f"tap.{place[0]}.{place[1].replace(' ', '_')}"
